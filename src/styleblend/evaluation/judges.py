"""The frozen networks that look at swapped faces.

Those that judge are no networks of the training, with two exceptions, which reports name: the 68 landmarks, of which a
run has one network, and the identity network of the training itself, which is there to be compared with the judge.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from styleblend.evaluation import inception, nsfw_inception
from styleblend.evaluation.metrics import OUTER_EYES_68, Likeness, Seen, likeness_of
from styleblend.evaluation.nsfw_inception import NsfwInception
from styleblend.evaluation.pictures import joined, unit_vectors
from styleblend.perception import attributes, identity, landmarks
from styleblend.perception.attributes import AttributeNetwork
from styleblend.perception.blendshapes import BlendshapeAttributes
from styleblend.perception.identity import FaceNetwork, Looks
from styleblend.perception.pose_3d68 import Attributes3d68
from styleblend.weights import frozen


class Beside(NamedTuple):
    """Targets as the judge sees them; `maps` are unit vectors, None for a judge whose maps cannot be had."""

    images: Tensor
    face: Tensor
    maps: list[Tensor] | None


@dataclass(frozen=True)
class Judges:
    """All that look at a swapped face; `describer` gives the features of the Frechet distance.

    training: the identity network of the training; landmarks: gives points [N, K, 2] in [0, 1]. Without them, what
    they see is not measured.
    """

    identity: FaceNetwork
    attributes: AttributeNetwork | Attributes3d68 | BlendshapeAttributes
    describer: FaceNetwork | inception.Inception | NsfwInception
    training: FaceNetwork | None = None
    landmarks: nn.Module | None = None

    @property
    def likeness(self) -> Likeness:
        """How the judge's embeddings are compared."""
        return likeness_of(self.identity)

    @property
    def outer_eyes(self) -> tuple[int, int]:
        """Numbers of the outer corners of the eyes among the network's landmarks: its `outer_eyes`, or those of 68."""
        eyes: tuple[int, int] = getattr(self.landmarks, "outer_eyes", OUTER_EYES_68)
        return eyes

    def see(self, images: Tensor, beside: Beside | None = None) -> tuple[Seen, Tensor]:
        """What all see in pictures [N, 3, S, S], and the describer's features [N, F]; on the CPU.

        Args:
            beside: the targets of these swaps; for `outside_maps`.
        """
        if isinstance(self.identity, Looks):
            embedding, own, maps = self.identity.look(images)
        else:
            embedding, own, maps = self.identity(images), None, None
        features = own if own is not None and self.describer is self.identity else self.describer.features(images)
        angles, expression = self.attributes(images)
        seen = Seen(
            images=_kept(images),
            embedding=_kept(embedding),
            pose_deg=_kept(angles),
            expression=_kept(expression),
            trained=None if self.training is None else _kept(self.training(images)),
            landmarks=None if self.landmarks is None else _kept(self.landmarks(images)),
            maps=None if maps is None else [level.cpu() for level in unit_vectors(maps)],
            likeness=self.likeness,
            outside_maps=None if beside is None else self._outside(images, beside),
        )
        return seen, _kept(features)

    @property
    def frechet_name(self) -> str:
        """Only with the features of the first FID's Inception is it the FID; else it is named after its network."""
        if isinstance(self.describer, inception.Inception):
            return "fid"
        return "frechet_" + "".join(letter if letter.isalnum() else "_" for letter in self.describer.name.lower())

    def target(self, images: Tensor, face: Tensor) -> Beside:
        """Target pictures [N, 3, S, S], masks [N, 1, S, S] of their faces, and the judge's maps of them."""
        return Beside(images, face, self._whole(images))

    def _outside(self, images: Tensor, beside: Beside) -> list[Tensor] | None:
        changed = joined(beside.images, images, beside.face)
        return beside.maps if changed.equal(beside.images) else self._whole(changed)

    def _whole(self, images: Tensor) -> list[Tensor] | None:
        if not isinstance(self.identity, Looks):
            return None
        return [level.cpu() for level in unit_vectors(self.identity.maps(images))]


def _kept(values: Tensor) -> Tensor:
    return values.float().cpu()


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
    others = identity.load(networks, "identity").to(device), landmarks.load(networks).to(device)
    listed = frozen.listed(networks).get("inception", {})
    if listed.get("format") == "tfjs_layers":
        file = networks / str(listed["file"])
        return Judges(judge, seer, nsfw_inception.load(file, str(listed["name"])).to(device), *others)
    stated = inception_sha256 or listed.get("sha256")
    if stated is None:
        return Judges(judge, seer, judge, *others)
    program = frozen.foreign(networks, "inception") or networks / "inception.pt"
    return Judges(judge, seer, inception.load(program, stated, device), *others)
