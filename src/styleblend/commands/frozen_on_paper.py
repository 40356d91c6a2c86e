"""The frozen networks that a training looks through, on fake tensors: their sizes, and what a step makes them hold.

Their files are looked for, but most are not needed: the forms of this project's own, of insightface's IResNets and of
FAN are known. What is known by its file alone, and is not here, is named and not counted.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from styleblend.config import catalogue
from styleblend.config.params import Config
from styleblend.config.training import LossWeights
from styleblend.errors import StyleBlendError
from styleblend.perception import attributes, identity, landmarks, shape
from styleblend.perception.fan import FanLandmarks
from styleblend.training.generated import Perception
from styleblend.weights import frozen
from styleblend.weights.formats.arcface_onnx import SIDE_PX, ArcFaceBody, ResidualBlock
from styleblend.weights.store import CACHE, SMALL, Store

_SMALL: Mapping[str, Callable[..., nn.Module]] = {
    "identity": identity.IdentityNetwork,
    "identity_judge": identity.IdentityNetwork,
    "landmarks": landmarks.LandmarkNetwork,
    "landmarks_3d": shape.ShapeNetwork,
    "attributes": attributes.AttributeNetwork,
}
IRESNETS: Mapping[str, tuple[int, int, int, int]] = {"w600k_r50": (3, 4, 14, 3), "glintr100": (3, 13, 30, 3)}
"""Blocks of the four stages of insightface's recognition networks of that form."""
_FAN, _HOURGLASSES = "2DFAN4", 4
_LOADERS: Mapping[str, Callable[[Path], nn.Module]] = {
    "identity": lambda folder: identity.load(folder, "identity"),
    "identity_second": lambda folder: identity.load(folder, "identity_second"),
    "identity_judge": lambda folder: identity.load(folder, "identity_judge"),
    "landmarks": landmarks.load,
    "landmarks_3d": shape.load,
    "attributes": lambda folder: attributes.load(folder, "attributes"),
}
_LOOKED_THROUGH = {
    "identity": "identity", "contrastive": "identity", "perceptual": "identity", "perceptual_maps": "identity",
    "target_margin": "identity", "identity_second": "identity_second", "landmarks": "landmarks",
    "attributes": "attributes", "shape_3d": "landmarks_3d",
}  # fmt: skip
"""Loss term to the role of the network that it looks through."""
_ALONE = ("adversarial", "reconstruction", "swap_consistency", "edges", "colour", "chroma")
"""Terms without a frozen network. `outside`, `pixels`, `mask` and `mesh` read places of faces, which no fake tensor
has: they are not followed, and are small beside the rest."""


@dataclass(frozen=True)
class Seeing:
    """Frozen networks by role, of fake tensors, and the names of those that could not be counted."""

    networks: Mapping[str, nn.Module] = field(default_factory=dict)
    absent: tuple[str, ...] = ()

    def of_stage(self, weights: LossWeights) -> dict[str, nn.Module]:
        """Those that a stage loads: the identity networks and the attributes always, others for their terms."""
        always = ("identity", "identity_judge", "attributes")
        used = {*always, *(role for term, role in _LOOKED_THROUGH.items() if getattr(weights, term))}
        if weights.mesh:
            used.add("landmarks")
        return {role: network for role, network in self.networks.items() if role in used}

    def followed(self, weights: LossWeights) -> LossWeights:
        """The weights of the terms that can be followed with these networks; those of others are 0."""
        can = {*_ALONE, *(term for term, role in _LOOKED_THROUGH.items() if role in self.networks)}
        return LossWeights(**{term: value if term in can else 0 for term, value in weights})

    def perception(self) -> Perception:
        """As load_perception gives them; what is missing is None, and no followed term looks at it."""
        roles = {name: cast(Any, self.networks.get(name)) for name in Perception._fields if name != "mesh"}
        return Perception(**roles)

    def embedding(self, picture: Tensor) -> int:
        """Length of the vectors of the training's identity network; what it is without one plays no part."""
        network = self.networks.get("identity")
        return 512 if network is None else int(network(picture).shape[1])


def seeing(cfg: Config, mode: FakeTensorMode, project: Path = Path()) -> Seeing:
    """The frozen networks that a training with these settings loads.

    Args:
        mode: the fake tensors', which is not on.
        project: its folder, with data/pretrained/small and the store of files.
    """
    found: dict[str, nn.Module] = {}
    absent = []
    for role, load in _LOADERS.items():
        name = str(getattr(cfg.pretrained, role))
        if name == "none":
            continue
        try:
            network = _of_form(role, name, mode, project / SMALL) or _of_file(role, name, load, cfg, mode, project)
        except StyleBlendError:
            # Missing or damaged: doctor says which, and the stage that needs it ends there.
            network = None
        if network is None:
            absent.append(f"{role} ({name})")
        else:
            found[role] = network.eval().requires_grad_(False)
    return Seeing(found, tuple(absent))


def _of_form(role: str, name: str, mode: FakeTensorMode, small: Path) -> nn.Module | None:
    """A network whose form is known without its file."""
    if name == "small":
        card = frozen.read_card(small, role)
        with mode:
            return _SMALL[role](**card["architecture"])
    if name in IRESNETS:
        with mode:
            return identity.ArcFace(name, iresnet((64, 64, 128, 256, 512), IRESNETS[name], 512))
    if name == _FAN:
        # Here and not above, as in perception.fan: it brings numba and scikit-image.
        from face_alignment.models.fan import FAN

        with mode:
            return FanLandmarks(name, FAN(_HOURGLASSES))
    return None


def _of_file(
    role: str, name: str, load: Callable[[Path], nn.Module], cfg: Config, mode: FakeTensorMode, project: Path
) -> nn.Module | None:
    # Not store_of, which refuses a mirror that is not there: nothing is obtained.
    store = Store(catalogue.load(cfg.pretrained.catalogue, project), project / CACHE)
    file = store.place(store.catalogue.get(name))
    if not file.is_file():
        return None
    with tempfile.TemporaryDirectory() as folder:
        listed = {role: {"file": str(file.resolve()), "name": name}}
        (Path(folder) / frozen.NETWORKS).write_text(json.dumps(listed))
        network = load(Path(folder))
    for part in network.modules():
        for key, value in list(part.named_parameters(recurse=False)):
            part._parameters[key] = nn.Parameter(mode.from_tensor(value.detach()), requires_grad=False)
        for key, buffer in list(part.named_buffers(recurse=False)):
            part._buffers[key] = mode.from_tensor(buffer)
    return network


def iresnet(widths: Sequence[int], blocks: Sequence[int], embedding: int) -> ArcFaceBody:
    """ArcFace's residual network as weights.formats.arcface_onnx reads it, with new weights.

    Args:
        widths: of the stem and of the four stages. blocks: of each stage; its first one halves the side.
    """
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, padding=1), nn.PReLU(widths[0])]
    channels = widths[0]
    for width, count in zip(widths[1:], blocks, strict=True):
        for number in range(count):
            stride = 1 if number else 2
            shortcut = nn.Identity() if number else nn.Conv2d(channels, width, 1, stride)
            first, second = nn.Conv2d(channels, width, 3, padding=1), nn.Conv2d(width, width, 3, stride, 1)
            layers.append(ResidualBlock(nn.BatchNorm2d(channels), first, nn.PReLU(width), second, shortcut))
            channels = width
    values = channels * (SIDE_PX // 2 ** len(blocks)) ** 2
    head = nn.Sequential(nn.Flatten(), nn.Linear(values, embedding), nn.BatchNorm1d(embedding))
    return ArcFaceBody("IResNet", nn.Sequential(*layers, nn.BatchNorm2d(channels)), head, embedding)
