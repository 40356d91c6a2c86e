"""The swap of one generator step, as the frozen networks and the discriminator see it: what loss terms look at."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from styleblend.config.training import LossWeights, Training
from styleblend.errors import StyleBlendError
from styleblend.faces import resize
from styleblend.faces.pixels import beside
from styleblend.model.discriminator import Discriminator
from styleblend.model.encoder import Encoding
from styleblend.model.prior import prior_picture
from styleblend.model.swapper import Swapper
from styleblend.perception import attributes, identity, landmarks, shape
from styleblend.perception.identity import FaceNetwork, Look
from styleblend.perception.landmarks import to_19
from styleblend.perception.mesh import POINTS, FaceMesh, MeshLandmarks
from styleblend.perception.mesh_attributes import MeshShape
from styleblend.perception.shape import ShapeNetwork, unposed
from styleblend.training import jitter
from styleblend.training.batches import Batch
from styleblend.training.ready import Ready, ready
from styleblend.weights import frozen


class Perception(NamedTuple):
    """The frozen networks that training looks through; see styleblend.perception.

    One that serves a loss term alone may be None where that term's weight is 0; the probe needs the other two.
    `identity_judge` is the evaluation's: no loss term sees it, the probe alone looks through it.
    """

    identity: FaceNetwork
    landmarks: nn.Module | None
    attributes: nn.Module
    landmarks_3d: ShapeNetwork | MeshShape | None
    identity_judge: FaceNetwork | None = None
    mesh: FaceMesh | None = None
    identity_second: FaceNetwork | None = None


def load_perception(networks: Path, weights: LossWeights, device: torch.device) -> Perception:
    """The frozen networks that a stage with these loss weights looks through, on the device.

    Raises:
        StyleBlendError: a file is missing, damaged or holds another network, or a term needs one that there is not.
    """
    seeing = landmarks.load(networks).to(device) if weights.landmarks or weights.mesh else None
    if weights.mesh and not isinstance(seeing, MeshLandmarks):
        name = getattr(seeing, "name", None)
        raise StyleBlendError(f"loss.mesh needs a mesh, but pretrained.landmarks is {name}: choose one, or set it to 0")
    if weights.identity_second and frozen.foreign(networks, "identity_second") is None:
        missing = f"{networks} holds no identity_second"
        raise StyleBlendError(f"loss.identity_second is {weights.identity_second:g}, but {missing}: choose one")
    return Perception(
        identity=identity.load(networks, "identity").to(device),
        landmarks=seeing,
        attributes=attributes.load(networks, "attributes").to(device),
        landmarks_3d=shape.load(networks).to(device) if weights.shape_3d else None,
        identity_judge=identity.load(networks, "identity_judge").to(device),
        mesh=seeing.mesh if isinstance(seeing, MeshLandmarks) else None,
        identity_second=identity.load(networks, "identity_second").to(device) if weights.identity_second else None,
    )


def autocast(cfg: Training, device: torch.device) -> AbstractContextManager[Any]:
    """In which G and V compute, by the setting `precision`."""
    return torch.autocast(device.type, torch.bfloat16) if cfg.precision == "bfloat16" else nullcontext()


class Generated:
    """One generator step's swap, and what loss terms look at: computed at first use, once, in the terms' order.

    Three encodings (I_s, I_t, swapped) and three decodings (the swap and the two of Eq. 12) serve all terms. The
    frozen networks judge in float32: cosines near 1 have no digits left in bfloat16.
    """

    batch: Batch
    cfg: Training
    swapped: Tensor
    mask_logits: Tensor | None
    """[N, 1, R, R] at the decoder's side, where a mask joins drawn pixels and the target's."""

    def __init__(
        self, swapper: Swapper, discriminator: Discriminator, perception: Perception, batch: Batch, cfg: Training
    ) -> None:
        self.swapper, self.discriminator, self.perception = swapper, discriminator, perception
        self.batch, self.cfg = batch, cfg
        self.ready = batch.ready or self._made_now()
        self._noise = swapper.decoder.noise_maps(beside(self.ready.noise, batch.source))
        with self._autocast():
            self._source, self._target = swapper.encoder(batch.source), swapper.encoder(batch.target)
        self.swapped, self.mask_logits = self._swap(
            self._source.codes, self._target.codes, self._target, batch.target, batch.warped
        )

    def _made_now(self) -> Ready:
        """What comes with a batch of the loop, for one that has come another way."""
        batch, decoder = self.batch, self.swapper.decoder
        facts = (batch.same_person, batch.target_landmarks, batch.target_mesh, self.swapper.encoder.input_px)
        return ready(self.cfg, decoder.resolutions, batch.noise_seeds, *facts)

    def _autocast(self) -> AbstractContextManager[Any]:
        return autocast(self.cfg, self.batch.source.device)

    def _swap(
        self, source_codes: Tensor, target_codes: Tensor, of_target: Encoding, target: Tensor, warped: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Pictures at the data set's side, and the logits of the mask that joined them at the decoder's, if any."""
        with self._autocast():
            codes = self.swapper.blending(source_codes, target_codes)
            swapped, logits = self.swapper.draw(codes, of_target, target, self._noise, warped)
            return resize.area(swapped, self.swapper.encoder.input_px).to(target.dtype), logits

    @cached_property
    def swapped_back(self) -> tuple[Tensor, Tensor]:
        """Eq. 12: G(swapped, I_s) and G(I_t, swapped)."""
        with self._autocast():
            again = self.swapper.encoder(self.swapped)
        return (
            self._swap(again.codes, self._source.codes, self._source, self.batch.source, None)[0],
            self._swap(self._target.codes, again.codes, again, self.swapped, None)[0],
        )

    @cached_property
    def scores(self) -> list[Tensor]:
        """What V gives for the swap, a map a scale."""
        with self._autocast():
            return [scores.to(self.swapped.dtype) for scores in self.discriminator(self.swapped)]

    @cached_property
    def embedding(self) -> Tensor:
        """F_id(swapped), [N, D]."""
        # One pass gives it with the maps, where these are looked at anyway.
        if self.cfg.loss.perceptual_maps and self.viewed is self.swapped:
            return self._look.embedding
        return self.perception.identity(self.viewed)

    @cached_property
    def faded(self) -> Tensor:
        """The swap with less saturation, as networks of points see it."""
        return jitter.faded(self.swapped, self._jitter, self.cfg.saturation_jitter)

    @cached_property
    def viewed(self) -> Tensor:
        """The same cut out otherwise, as networks of identity see it."""
        return jitter.cropped(self.faded, self._jitter, self.cfg.crop_jitter)

    @property
    def _jitter(self) -> Tensor:
        drawn = self.ready.jitter
        # None is drawn where none is asked for, and then nobody looks at it.
        return self.swapped if drawn is None else beside(drawn, self.swapped)

    @property
    def expected(self) -> Tensor:
        """What the prior alone says, at the data set's side."""
        assert self.batch.warped is not None
        return prior_picture(self.batch.target, self.batch.warped, self.swapper.encoder.input_px)

    @cached_property
    def _look(self) -> Look:
        return self.perception.identity.look(self.swapped)

    @cached_property
    def maps(self) -> tuple[list[Tensor], list[Tensor]]:
        """Maps of the identity network, a level each: of the swap, and of the right answer without gradient."""
        with torch.no_grad():
            wanted = self.perception.identity.look(self.batch.truth).maps
        return self._look.maps, wanted

    @property
    def second(self) -> FaceNetwork:
        """The second identity network, of a run that has one."""
        assert self.perception.identity_second is not None
        return self.perception.identity_second

    @cached_property
    def second_embeddings(self) -> tuple[Tensor, Tensor]:
        """Of the second network, [N, D] each: of the swap, and of the source without gradient."""
        with torch.no_grad():
            wanted = self.second(self.batch.source)
        return self.second(self.viewed), wanted

    @cached_property
    def meshes(self) -> tuple[Tensor, Tensor]:
        """Points [N, K, 3] of the swap and of the target; where both show one person, the latter stand for both."""
        if self.perception.mesh is None or self.batch.target_mesh is None:
            raise StyleBlendError(
                "the faces were perceived without a mesh, which loss.mesh needs: choose a mesh as pretrained.landmarks"
            )
        wanted = self.batch.target_mesh[:, :POINTS]
        rows = self.ready.swaps
        # Reconstructions are compared by their pixels, and the network takes its time.
        # Attached to the swap, so that a batch without a swap has a gradient, of zeros.
        found = wanted + 0 * self.swapped.mean()
        if rows:
            places = beside(rows, self.swapped)
            found = found.index_put((places,), self.perception.mesh(self.faded[places])[:, :POINTS])
        return found, wanted

    @cached_property
    def features(self) -> tuple[Tensor, Tensor]:
        """Features of the identity network, [N, F] each: of the swap and of the target, the latter without gradient."""
        with torch.no_grad():
            wanted = self.perception.identity.features(self.batch.truth)
        return self.perception.identity.features(self.swapped), wanted

    @cached_property
    def points(self) -> Tensor:
        """F_lm(swapped), [N, 19, 2]."""
        assert self.perception.landmarks is not None
        return to_19(self.perception.landmarks(self.swapped))

    @cached_property
    def attributes(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pose in degrees [N, 3] of the swap and of the target, then expression [N, E] of the two."""
        with torch.no_grad():
            pose, expression = self.perception.attributes(self.batch.truth)
        swapped_pose, swapped_expression = self.perception.attributes(self.swapped)
        return swapped_pose, pose, swapped_expression, expression

    @cached_property
    def shapes(self) -> tuple[Tensor, Tensor]:
        """Rigid landmarks [N, K, 3]: of the swap, turned back by the target's pose, and of the source by its own."""
        solid = self.perception.landmarks_3d
        assert solid is not None
        with torch.no_grad():
            own = solid(self.batch.source)
            wanted, turn = unposed(own, solid.turn(own)), solid.turn(solid(self.batch.truth))
        return unposed(solid(self.swapped), turn), wanted

    @property
    def drawn_where(self) -> Tensor:
        """Logits of the mask, of a model that has one."""
        assert self.mask_logits is not None
        return self.mask_logits

    @cached_property
    def face(self) -> Tensor:
        """Soft mask of the target's face, [N, 1, S, S]."""
        assert self.ready.face is not None
        return beside(self.ready.face, self.swapped)
