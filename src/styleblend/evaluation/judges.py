"""The frozen networks that judge swapped faces; none of them is a network of the training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from styleblend.evaluation import inception, nsfw_inception
from styleblend.evaluation.nsfw_inception import NsfwInception
from styleblend.perception import attributes, identity
from styleblend.perception.attributes import AttributeNetwork
from styleblend.perception.blendshapes import BlendshapeAttributes
from styleblend.perception.identity import FaceNetwork
from styleblend.perception.pose_3d68 import Attributes3d68
from styleblend.weights import frozen


@dataclass(frozen=True)
class Judges:
    """All that look at a swapped face; `describer` gives the features of the Frechet distance."""

    identity: FaceNetwork
    attributes: AttributeNetwork | Attributes3d68 | BlendshapeAttributes
    describer: FaceNetwork | inception.Inception | NsfwInception

    @property
    def frechet_name(self) -> str:
        """Only with the features of the first FID's Inception is it the FID; else it is named after its network."""
        if isinstance(self.describer, inception.Inception):
            return "fid"
        return "frechet_" + "".join(letter if letter.isalnum() else "_" for letter in self.describer.name.lower())


def load(networks: Path, inception_sha256: str | None = None, device: str = "cpu") -> Judges:
    """The judges of the folder `networks`.

    Args:
        inception_sha256: of the settings; None is what networks.json states. Without either the identity network
            gives the features of the Frechet distance.
    Raises:
        StyleBlendError: a file is missing or damaged, or Inception's is not the stated one.
    """
    judge = identity.load(networks, "identity_judge").to(device)
    seer = attributes.load(networks, "attributes_judge").to(device)
    listed = frozen.listed(networks).get("inception", {})
    if listed.get("format") == "tfjs_layers":
        file = networks / str(listed["file"])
        return Judges(judge, seer, nsfw_inception.load(file, str(listed["name"])).to(device))
    stated = inception_sha256 or listed.get("sha256")
    if stated is None:
        return Judges(judge, seer, judge)
    program = frozen.foreign(networks, "inception") or networks / "inception.pt"
    return Judges(judge, seer, inception.load(program, stated, device))
