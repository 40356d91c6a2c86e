"""The one typed configuration: params.yaml, read at the door and checked before anything runs.

Every section is named after the stage that reads it (`model`, `tracking` and `provenance` are shared). Sections are
frozen, refuse unknown keys and check ranges; nobody deeper in the package reads a file or the environment for a
setting.
"""

from __future__ import annotations

import re
from math import log2
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, ValidationInfo, model_validator

from styleblend.errors import StyleBlendError

if TYPE_CHECKING:
    from styleblend.catalogue import Catalogue

MAX_PIXELS = 100_000_000
"""Pictures of more pixels are refused by default; about 400 MB, decoded."""


class ConfigError(StyleBlendError):
    """A parameter is unknown, missing or out of range. The message names it, its value and the remedy."""


class Section(BaseModel):
    """Base of every section: immutable, and a key that nobody declared is an error rather than ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def has_secret(address: str) -> bool:
    """Whether an address carries a password or, as the user of a web address, a token."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "@" in address
    web = parts.scheme in ("http", "https")
    return parts.password is not None or (web and parts.username is not None) or "password" in parse_qs(parts.query)


def _expect_no_password(name: str, address: str | None, remedy: str) -> None:
    """Settings are kept by DVC and MLflow and with every version: the message shows nothing of the address."""
    if address is not None and has_secret(address):
        raise ValueError(
            f"{name} holds a name or password, and params.yaml is kept with every version: take it out, {remedy}"
        )


Probability = Annotated[float, Field(ge=0, le=1)]
SourceWeight = Annotated[
    float, Field(gt=0, description="how often training draws one of its pictures, against one of weight 1")
]
Weight = Annotated[float, Field(ge=0, description="weight of a loss term; 0 switches the term off")]
Statement = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class RenderedSource(Section):
    """Faces that the project renders itself: exact ground truth, no download, no person's likeness."""

    kind: Literal["rendered"]
    name: str = Field("rendered", pattern=r"^[a-z0-9_]+$")
    identities: int = Field(ge=6, description="how many different people")
    pictures_per_identity: int = Field(ge=2, description="pictures of each, with other pose, expression and light")
    size_px: int = Field(112, ge=32, le=1024, description="side of the rendered photograph, before alignment")
    supersample: int = Field(2, ge=1, le=4, description="rays per pixel and axis")
    even_yaw_deg: float | None = Field(
        None, gt=0, le=90, description="yaw evenly from minus to plus this; null: within 45, most faces looking ahead"
    )
    seed: int = Field(ge=0)
    weight: SourceWeight = 1


class FolderSource(Section):
    """A person's own photographs, in any nesting. A sub-folder per person gives labels if `label` says so."""

    kind: Literal["folder"]
    name: str = Field("folder", pattern=r"^[a-z0-9_]+$")
    path: Path = Field(description="folder with photographs; relative to the project or absolute")
    label: Literal["none", "parent_folder"] = Field("none", description="where the name of the person stands")
    licence: Statement = Field(description="licence of the pictures, as their owner states it")
    terms: Statement = Field(description="what may be done with them: consent, purpose, limits")
    weight: SourceWeight = 1


class PackedSource(Section):
    """What the sources share that may lie in a zip or tar file, here or behind a url."""

    name: str
    path: Path | None = Field(None, description="zip or tar file on this machine; of a published set its folder, too")
    url: str | None = Field(None, pattern=r"^https?://", description="where the file is to be had; in place of path")
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", description="of the file; a url needs it")

    @model_validator(mode="after")
    def one_origin(self) -> PackedSource:
        remedy = "download the file yourself and give its path"
        _expect_no_password(f"the url of source '{self.name}'", self.url, remedy)
        if (self.path is None) == (self.url is None):
            raise ValueError(f"source '{self.name}' needs either path or url: give one of the two")
        if self.url is not None and self.sha256 is None:
            raise ValueError(f"source '{self.name}' has a url but no sha256: state the checksum of {self.url}")
        return self

    @property
    def origin(self) -> str:
        """The path or the url, for messages."""
        return str(self.path or self.url)


class FfhqSource(PackedSource):
    """FFHQ as it is published, in folders or in their zips, with its JSON where that is at hand.

    `path` is images1024x1024, in-the-wild-images or a folder of resized pictures, a folder above one of these, or a
    zip or tar file of any of them.
    """

    kind: Literal["ffhq"]
    name: str = Field("ffhq", pattern=r"^[a-z0-9_]+$")
    form: Literal["aligned", "in_the_wild", "resized"] = Field(
        "aligned", description="aligned at 1024 px, as published; in_the_wild; resized: aligned, of another size"
    )
    metadata: Path | None = Field(None, description="ffhq-dataset-v2.json: landmarks, licence and author of each")
    licences: Literal["all", "permissive"] = Field(
        "all", description="permissive: only pictures whose own licence allows commercial use; needs metadata"
    )
    weight: SourceWeight = 1


class CelebaHqSource(PackedSource):
    """CelebA-HQ as numbered pictures; with mapping and identities, splits are by person for sure.

    `path` is CelebA-HQ-img or a folder of 00000.png and so on, a folder above it, or a zip or tar file of either, as
    CelebAMask-HQ.zip.
    """

    kind: Literal["celeba_hq"]
    name: str = Field("celeba_hq", pattern=r"^[a-z0-9_]+$")
    numbered_from: Literal[0, 1] = Field(0, description="number in the name of the first picture")
    mapping: Path | None = Field(
        None, description="CelebA-HQ-to-CelebA-mapping.txt; null: beside the pictures, where it is published"
    )
    identities: Path | None = Field(None, description="identity_CelebA.txt, which CelebA's authors give on request")
    weight: SourceWeight = 1

    @model_validator(mode="after")
    def mapping_needs_identities(self) -> CelebaHqSource:
        if self.mapping is not None and self.identities is None:
            raise ValueError(
                f"source '{self.name}' has mapping but no identities: persons need both; give both or none"
            )
        return self


class ArchiveSource(PackedSource):
    """Any photographs in a zip or tar file, here or behind a url."""

    kind: Literal["archive"]
    name: str = Field("archive", pattern=r"^[a-z0-9_]+$")
    label: Literal["none", "parent_folder"] = Field("none", description="where the name of the person stands")
    licence: Statement = Field(description="licence of the pictures, as their owner states it")
    terms: Statement = Field(description="what may be done with them: consent, purpose, limits")
    weight: SourceWeight = 1


Source = Annotated[
    RenderedSource | FolderSource | FfhqSource | CelebaHqSource | ArchiveSource, Field(discriminator="kind")
]


class Download(Section):
    sources: tuple[Source, ...] = Field(min_length=1)
    origin: Path = Field(description="what the pictures come from; dvc.yaml watches it, so new photographs count")
    workers: int = Field(2, ge=1, description="parallel processes")

    @property
    def places(self) -> tuple[Path, ...]:
        """Folders and archives of photographs on this machine: what may be missing, and what may change."""
        return tuple(s.path for s in self.sources if not isinstance(s, RenderedSource) and s.path is not None)

    @model_validator(mode="after")
    def names_are_unique(self) -> Download:
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError(f"download.sources have the names {names}: give each source a name of its own")
        return self

    @model_validator(mode="after")
    def origin_holds_the_folders(self) -> Download:
        for source in self.sources:
            place = None if isinstance(source, RenderedSource) else source.path
            if place is not None and not place.is_relative_to(self.origin):
                raise ValueError(
                    f"download.origin '{self.origin}' does not hold '{place}': set it to a folder that does"
                )
        return self


Choice = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""`small`, `none` where a role may be empty, or a network of the catalogue."""

SMALL_OR_LISTED = (
    "identity",
    "identity_judge",
    "landmarks",
    "landmarks_3d",
    "attributes",
    "attributes_judge",
    "decoder",
)
NONE_OR_LISTED = ("encoder_body", "inception", "detector")
ROLES = (*SMALL_OR_LISTED, "encoder", *NONE_OR_LISTED)
"""What frozen networks do in a run, and keys of the section `pretrained`."""


class Pretrained(Section):
    """Which frozen networks a run uses, one for each role.

    `small` are the ones that this project made on rendered faces; other names stand in the catalogue, which
    `styleblend weights list` shows with licences and sizes.
    """

    identity: Choice = Field("small", description="whose face it is; training learns under it")
    identity_judge: Choice = Field("small", description="the same for the evaluation, another network")
    landmarks: Choice = Field("small", description="68 points, for Eq. 11")
    landmarks_3d: Choice = Field("small", description="68 points in three dimensions")
    attributes: Choice = Field("small", description="pose and expression, for training")
    attributes_judge: Choice = Field("small", description="pose and expression, for the evaluation")
    decoder: Choice = Field("small", description="what D starts from: small, or a StyleGAN")
    encoder: Literal["small", "none"] = Field("small", description="the inversion of the small decoder, or none")
    encoder_body: Choice = Field("none", description="the face network that the encoder's body starts from")
    inception: Choice = Field("none", description="features of the FID")
    detector: Choice = Field("none", description="face detector to obtain")
    mirror: Path | None = Field(
        None, description="folder with files or archives of the catalogue, for machines without internet"
    )
    catalogue: Path | None = Field(None, description="YAML file with networks of your own, as catalogue.yaml")
    same_judge: bool = Field(False, description="allow one identity network for training and evaluation")

    def chosen(self) -> dict[str, str]:
        """Role to the name of the network that the catalogue describes; neither small ones nor none."""
        names = {role: str(getattr(self, role)) for role in ROLES}
        return {role: name for role, name in names.items() if name not in ("small", "none")}

    def small(self) -> list[str]:
        """Roles that this project's own networks fill."""
        return [role for role in ROLES if getattr(self, role) == "small"]

    @model_validator(mode="after")
    def networks_fit_their_roles(self, info: ValidationInfo) -> Pretrained:
        for role in SMALL_OR_LISTED:
            if getattr(self, role) == "none":
                raise ValueError(f"pretrained.{role} is 'none', but a run needs one: {_choices(self, role, info)}")
        for role in NONE_OR_LISTED:
            if getattr(self, role) == "small":
                raise ValueError(f"pretrained.{role} is 'small', which there is not: {_choices(self, role, info)}")
        for role, name in self.chosen().items():
            if name not in _catalogue(self, info).fitting(role):
                raise ValueError(f"pretrained.{role} cannot be '{name}': {_choices(self, role, info)}")
        judge = self.identity_judge
        if judge != "small" and judge == self.identity and not self.same_judge:
            raise ValueError(
                f"pretrained.identity and identity_judge are both '{judge}', so evaluation would flatter the model: "
                "choose another for one of them, or set pretrained.same_judge to true"
            )
        return self


def _catalogue(cfg: Pretrained, info: ValidationInfo) -> Catalogue:
    """The catalogue that the parameters name, relative to the folder of their file."""
    # Imported here, so that DVC does not run every stage again when the catalogue grows: only `pretrained` uses it.
    from styleblend import catalogue

    try:
        return catalogue.load(cfg.catalogue, (info.context or {}).get("folder", Path()))
    except StyleBlendError as error:
        raise ValueError(str(error)) from None


def _choices(cfg: Pretrained, role: str, info: ValidationInfo) -> str:
    fixed = "none" if role in NONE_OR_LISTED else "small"
    return f"choose {' or '.join((fixed, *_catalogue(cfg, info).fitting(role)))}"


Finder = Literal["yunet", "insightface", "face_alignment"]
"""Whose code finds faces: OpenCV's with YuNet's file, insightface's, or face-alignment's."""


class Align(Section):
    detector: Literal["annotations", Finder] = Field(
        description="annotations ship with a source; the others find faces: with five points (yunet, insightface's"
        " SCRFD) or 68 (face_alignment, which needs FAN as pretrained.landmarks)"
    )
    size_px: int = Field(64, ge=16, le=1024, description="side of the aligned face")
    min_score: Probability = Field(0.6, description="faces that the detector trusts less are not used")
    min_face_px: int = Field(40, ge=8, description="smallest accepted longer side of a detected face")
    several_faces: Literal["largest", "all", "quarantine"] = "largest"
    # Pillow decodes nothing above the upper limit, which is twice its Image.MAX_IMAGE_PIXELS.
    max_pixels: int = Field(
        MAX_PIXELS, ge=1_000_000, le=178_956_970, description="larger pictures are refused, not decoded"
    )
    workers: int = Field(2, ge=1)


class Perceive(Section):
    batch_size: int = Field(64, ge=1)


class Validate(Section):
    """Expectations on the data; each failed one fails the stage."""

    min_faces: int = Field(40, ge=2)
    max_quarantined: Probability = Field(0.2, description="share of the input that may be quarantined")
    max_abs_yaw_deg: float = Field(100, gt=0, le=180)
    min_sharpness: float = Field(0.0, ge=0, description="lowest accepted variance of the Laplacian, [0,255] grey")
    mostly: Probability = Field(0.95, description="share of faces that must satisfy a per-face range")


class Split(Section):
    val: float = Field(0.1, gt=0, lt=0.5, description="share of persons")
    test: float = Field(0.2, gt=0, lt=0.5, description="share of persons")
    cluster_similarity: float = Field(
        0.5,
        gt=-1,
        lt=1,
        description="faces without a label whose embeddings are closer than this are one person; it fits the identity"
        " network, and is higher than swap.min_likeness, since each face meets all others",
    )
    test_pairs: int = Field(240, ge=1, description="(source, target) pairs of the evaluation, of different persons")
    val_pairs: int = Field(32, ge=1, description="pairs of the validation probe")
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def leaves_training(self) -> Split:
        if self.val + self.test > 0.8:
            raise ValueError(f"split.val {self.val} + split.test {self.test} leaves under 20 % for training")
        return self


Variant = Literal["nvidia", "lernapparat", "rosinality"]


class Model(Section):
    """Networks of the paper, sections 2.1-2.3. presets/paper.yaml has the paper's own numbers."""

    resolution: int = Field(64, description="side of the decoder's picture in pixels, a power of two")
    input_px: int = Field(64, description="side of the encoder's input in pixels, a power of two")
    style_dim: int = Field(128, ge=8, description="dimensions of one style element; 512 in the paper")
    encoder_blocks: tuple[int, int, int, int] = Field((1, 2, 2, 2), description="residual blocks a stage; 3,4,14,3")
    encoder_widths: tuple[int, int, int, int] = Field((16, 32, 64, 96), description="channels a stage; 64..512")
    stem_stride: Literal[1, 2] = Field(2, description="stride of the encoder's first convolution; 1 in the paper")
    encoder_body: Literal["se_resnet", "ir_se50"] = Field(
        "se_resnet",
        description="ir_se50 takes the weights of the face network model_ir_se50.pth and has its sizes",
    )
    pyramid_width: int = Field(64, ge=8, description="channels of the feature pyramid; 512")
    head_width: int = Field(32, ge=4, description="channels inside each style head; 512")
    blending_layers: int = Field(4, ge=1, description="cross-attention layers of the SBM; 4")
    blending_heads: int = Field(4, ge=1)
    blending_pace: float = Field(
        1, ge=1, description="how many times as fast as the rest the weights of Eq. 2 learn; short trainings need it"
    )
    blending_weights: Literal["channel", "element"] = Field(
        "channel", description="Eq. 2: one softmax per style channel, or one scalar per style element"
    )
    decoder_widths: dict[int, int] = Field(
        {4: 96, 8: 96, 16: 64, 32: 32, 64: 16}, description="channels of the decoder's block at each resolution"
    )
    decoder_variant: Variant = Field(
        "nvidia", description="whose StyleGAN the decoder's layers follow; rosinality's weights need rosinality's"
    )
    pathway_resolutions: tuple[int, ...] = Field(
        (8, 16, 32), description="decoder resolutions after whose style block the target's features are added"
    )
    discriminator_width: int = Field(24, ge=4)
    discriminator_scales: int = Field(2, ge=1, le=4)

    @property
    def n_styles(self) -> int:
        """Style elements: two for each decoder block, 2 log2(resolution) - 2."""
        return 2 * int(log2(self.resolution)) - 2

    @model_validator(mode="after")
    def sizes_fit(self) -> Model:
        for name, side in (("resolution", self.resolution), ("input_px", self.input_px)):
            if side < 16 or side & (side - 1):
                raise ValueError(f"model.{name} is {side}: it must be a power of two, at least 16")
        expected = [2**k for k in range(2, int(log2(self.resolution)) + 1)]
        if sorted(self.decoder_widths) != expected:
            raise ValueError(f"model.decoder_widths has blocks {sorted(self.decoder_widths)}: give {expected}")
        sizes = (self.encoder_blocks, self.encoder_widths, self.stem_stride)
        if self.encoder_body == "ir_se50" and sizes != ((3, 4, 14, 3), (64, 128, 256, 512), 1):
            raise ValueError(
                "model.encoder_body 'ir_se50' has encoder_blocks [3, 4, 14, 3], encoder_widths [64, 128, 256, 512]"
                f" and stem_stride 1, got {list(sizes[0])}, {list(sizes[1])} and {sizes[2]}: set these or 'se_resnet'"
            )
        if self.style_dim % self.blending_heads:
            raise ValueError(f"model.style_dim {self.style_dim} is not divisible by {self.blending_heads} heads")
        wrong = [side for side in self.pathway_resolutions if side not in expected]
        if wrong:
            raise ValueError(f"model.pathway_resolutions {wrong} are no decoder blocks: choose from {expected}")
        return self


class LossWeights(Section):
    """Weights of Eq. 13 and of the terms that the paper has not; squared errors are means over their elements."""

    adversarial: Weight = Field(1, description="Eq. 5")
    identity: Weight = Field(10, description="Eq. 8, lambda_1")
    contrastive: Weight = Field(5, description="Eq. 9, lambda_2")
    reconstruction: Weight = Field(1, description="Eq. 10, lambda_3")
    landmarks: Weight = Field(100, description="Eq. 11, lambda_4; coordinates in [0, 1]")
    swap_consistency: Weight = Field(1, description="Eq. 12, lambda_5")
    outside: Weight = Field(0, description="not in the paper: L1 to the target outside the face")
    attributes: Weight = Field(0, description="not in the paper: pose and expression of the target")
    perceptual: Weight = Field(0, description="not in the paper: features of a frozen network, reconstructions only")
    shape_3d: Weight = Field(
        0, description="not in the paper: 3-D landmarks, turned back by the target's pose, have the source's shape"
    )


EncoderStart = Literal["pretrained", "new", "body"]


class Training(Section):
    """What both training stages share."""

    steps: int = Field(ge=1)
    batch_size: int = Field(ge=2, description="pictures a step, over all workers")
    workers: int = Field(2, ge=1, description="Ray Train workers")
    ray_address: str | None = Field(None, description="a running Ray cluster, e.g. auto; null starts one here")
    gpus_per_worker: float = Field(0, ge=0, le=1, description="1 on a GPU machine")
    cpus_per_worker: float = Field(1, gt=0)
    learning_rate: float = Field(4e-5, gt=0)
    cool_down: Probability = Field(
        0, description="last share of the steps over which learning_rate falls linearly to zero; 0 in the paper"
    )
    discriminator_learning_rate: float = Field(4e-5, gt=0)
    adam_betas: tuple[Probability, Probability] = (0.0, 0.99)
    ema_decay: Probability = Field(0.99, description="of the averaged weights that the product uses; 0 is none")
    r1_gamma: float = Field(0, ge=0, description="R1 penalty of the discriminator on real pictures; 0 is none")
    loss: LossWeights = LossWeights()
    temperature: float = Field(0.07, gt=0, description="tau of Eq. 9")
    negatives: int = Field(32, ge=1, description="negatives of Eq. 9, drawn from the bank of embeddings")
    curriculum_start: Probability = Field(1, description="P(source is the target's person) at the first step")
    curriculum_end: Probability = Field(0, description="the same once the curriculum is over")
    curriculum_steps: int = Field(ge=0, description="length of the linear way from start to end")
    same_person: Probability = Field(
        0, description="share of self pairs whose source is another picture of the same person; 0 in the paper"
    )
    encoder_start: EncoderStart = Field(
        "pretrained",
        description="train_encoder only: E starts from the inversion of the small D, from the face network"
        " model_ir_se50.pth (body), or from nothing (new); the last two take D's mean code",
    )
    swap_every: int = Field(1, ge=1, description="Eq. 12 is taken at every k-th step; 1 in the paper")
    probe_every: int = Field(100, ge=1, description="steps between validation probes")
    checkpoint_every: int = Field(50, ge=1, description="steps between checkpoints")
    log_every: int = Field(20, ge=1)
    max_failures: int = Field(2, ge=0, description="lost workers that Ray replaces before it gives up")
    max_rollbacks: int = Field(2, ge=0, description="returns to the last good checkpoint before the run is given up")
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def batch_is_shared_evenly(self) -> Training:
        if self.batch_size % self.workers:
            raise ValueError(f"batch_size {self.batch_size} does not divide evenly over {self.workers} workers")
        return self


class Evaluate(Section):
    bootstrap: int = Field(1000, ge=100, description="resamples of each 95 % interval")
    grid_rows: int = Field(8, ge=1)
    yaw_bins_deg: tuple[float, ...] = Field((15, 30), description="limits between the pose groups, |yaw| of the target")
    batch_size: int = Field(32, ge=1)
    inception_sha256: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        description="of the networks' inception.pt, a TorchScript program that is run if it has this hash: the FID;"
        " not needed with pretrained.inception, whose hash the catalogue states",
    )
    seed: int = Field(0, ge=0)


class Gate(Section):
    """What a version must reach to become `candidate`, each limit on a name of reports/metrics.json."""

    min: dict[str, float] = Field({}, description="lowest accepted value a metric")
    max: dict[str, float] = Field({}, description="highest accepted value a metric")


class Register(Section):
    gate: Gate = Gate()
    alias: str = Field("candidate", pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")


class Tracking(Section):
    uri: str = Field("sqlite:///mlflow.db", description="MLflow tracking and registry store; no password")
    experiment: str = "styleblend"
    model_name: str = Field("styleblend", pattern=r"^[A-Za-z0-9_-]+$")

    @model_validator(mode="after")
    def no_password(self) -> Tracking:
        remedy = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, and put a database behind MLflow's server"
        _expect_no_password("tracking.uri", self.uri, remedy)
        return self


class Swap(Section):
    """How `styleblend swap` tells people apart; the limits fit the identity network that the run uses.

    The defaults are for the small one. For ArcFace insightface's example calls two faces one person from 0.28 on.
    """

    min_likeness: float = Field(
        0.45, ge=-1, le=1, description="lowest cosine of two embeddings at which a face counts as --target-like's"
    )
    likeness_margin: float = Field(
        0.1, ge=0, le=2, description="the face must be more alike than any other face in the picture by this much"
    )


class Provenance(Section):
    """Who signs the C2PA manifests of pictures that leave; marking itself has no switch."""

    certificate: Path | None = Field(
        None, description="PEM chain, the signer's first; null: a test certificate that this machine makes for itself"
    )
    private_key: Path | None = Field(None, description="PEM file of the certificate's unlocked key, kept out of git")
    algorithm: Literal["es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519"] = "es256"
    timestamp_url: str | None = Field(
        None, pattern=r"^https?://", description="RFC 3161 authority; null: no timestamp, and no network is used"
    )

    @model_validator(mode="after")
    def both_or_none(self) -> Provenance:
        _expect_no_password("provenance.timestamp_url", self.timestamp_url, "and name an authority that asks for none")
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError(
                f"provenance.certificate is '{self.certificate}' and provenance.private_key is '{self.private_key}': "
                "give both, or neither for a test certificate"
            )
        return self


class Follow(Section):
    """Which version a running product uses, and how soon it notices that a person chose another one."""

    alias: str = Field("champion", pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")
    every_s: float = Field(10, gt=0, description="seconds between two questions to the registry")


class Serve(Section):
    """What `styleblend serve` grants to whoever asks it."""

    host: str = Field(
        "127.0.0.1", description="address to listen at; another than this machine's own opens it to others"
    )
    port: int = Field(8000, ge=0, le=65535, description="0 takes a free one")
    max_upload_mb: float = Field(20, gt=0, description="largest request, both pictures together, in 10^6 bytes")
    upload_seconds: float = Field(30, gt=0, description="longest time in which a request may arrive")
    swap_seconds: float = Field(
        60, gt=0, description="longest time until the answer, then the work ends at its next step"
    )
    at_once: int = Field(
        1, ge=1, description="swaps at the same time, those that took too long and have not ended yet among them"
    )
    waiting: int = Field(4, ge=0, description="requests that may wait for their turn; further ones are sent away")


class Retrain(Section):
    """When the Prefect flow runs and what it may do."""

    cron: str = Field("0 3 * * 0", description="schedule: minute, hour, day of month, month, day of week")
    timezone: str = Field("UTC", description="time zone of cron, as Europe/Berlin")
    retries: int = Field(1, ge=0, description="further tries of the pipeline where its failure may pass")
    retry_seconds: float = Field(10, ge=0, description="pause before each")
    watch_seconds: float = Field(60, ge=0, description="between looks at the folders of photographs; 0 looks never")
    settle_seconds: float = Field(
        120, ge=0, description="how long changed photographs must have been at rest before a run starts"
    )
    watch_upstream_seconds: float = Field(
        3600, ge=0, description="between `dvc update`s of imported folders; 0 updates only when a run starts"
    )
    promote: Literal["manual", "auto"] = Field(
        "manual", description="auto: a version that passes register.gate becomes the champion by itself"
    )
    notify_file: Path = Path("reports/notifications.log")
    webhook: str | None = Field(
        None, description="http address that is told what came out; ${NAME} stands for the environment's value"
    )

    @model_validator(mode="after")
    def timezone_is_known(self) -> Retrain:
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(f"retrain.timezone '{self.timezone}' is not known: give one as Europe/Berlin") from None
        return self


class Pretrain(Section):
    """The recipe of the small networks; only read when the frozen stage `pretrain` is run."""

    identities: int = Field(ge=20)
    pictures_per_identity: int = Field(ge=2)
    judge_identities: int = Field(ge=20, description="how many other people the judge of the evaluation learns from")
    profile_identities: int = Field(ge=10, description="people of each set that is seen evenly from -60 to 60 degrees")
    test_identities: int = Field(200, ge=100, description="unseen people on whom accuracy is measured")
    identity_steps: int = Field(ge=1)
    judge_steps: int = Field(ge=1)
    geometry_steps: int = Field(ge=1)
    landmarks_3d_steps: int = Field(ge=1)
    attributes_judge_steps: int = Field(ge=1)
    decoder_steps: int = Field(ge=1)
    encoder_code_steps: int = Field(ge=1)
    encoder_steps: int = Field(ge=1)
    seed: int = Field(0, ge=0)


def _is_annotated(source: Source) -> bool:
    return source.kind == "rendered" or (source.kind == "ffhq" and source.metadata is not None)


class Config(Section):
    """All of params.yaml."""

    tracking: Tracking
    model: Model
    download: Download
    pretrain: Pretrain
    pretrained: Pretrained
    align: Align
    perceive: Perceive
    validate_: Validate = Field(alias="validate")
    split: Split
    train_encoder: Training
    finetune_decoder: Training
    evaluate: Evaluate
    register_: Register = Field(alias="register")
    swap: Swap = Swap()
    follow: Follow = Follow()
    serve: Serve = Serve()
    retrain: Retrain
    provenance: Provenance = Provenance()

    def _expect_decoder(self, info: ValidationInfo) -> None:
        name, model = self.pretrained.decoder, self.model
        entry = _catalogue(self.pretrained, info).get(name)
        if entry.resolution not in (None, model.resolution):
            raise ValueError(
                f"pretrained.decoder '{name}' draws {entry.resolution} px, model.resolution is {model.resolution}: "
                "choose another, or set model.resolution and model.decoder_widths to it"
            )
        if entry.variants and model.decoder_variant not in entry.variants:
            raise ValueError(
                f"pretrained.decoder '{name}' is of another variant than model.decoder_variant"
                f" '{model.decoder_variant}': set that to {' or '.join(entry.variants)}"
            )

    def _expect_detector(self, info: ValidationInfo) -> None:
        kind, name = self.align.detector, self.pretrained.detector
        fitting = [
            known for known, entry in _catalogue(self.pretrained, info).networks.items() if kind in entry.detects
        ]
        if name not in fitting:
            raise ValueError(
                f"align.detector is '{kind}' but pretrained.detector is '{name}': choose one of {', '.join(fitting)}"
            )
        if kind == "face_alignment" and self.pretrained.landmarks == "small":
            raise ValueError(
                "align.detector is 'face_alignment', which needs FAN: set pretrained.landmarks to 2DFAN4, it is 'small'"
            )

    @model_validator(mode="after")
    def sections_agree(self, info: ValidationInfo) -> Config:
        if self.align.size_px != self.model.input_px:
            raise ValueError(
                f"align.size_px {self.align.size_px} and model.input_px {self.model.input_px} differ: set both alike"
            )
        if self.align.detector != "annotations":
            self._expect_detector(info)
        if "decoder" in self.pretrained.chosen():
            self._expect_decoder(info)
        unannotated = [source.name for source in self.download.sources if not _is_annotated(source)]
        if self.align.detector == "annotations" and unannotated:
            raise ValueError(f"align.detector 'annotations' cannot serve {unannotated}: set it to 'yunet'")
        gate = self.register_.gate
        if self.retrain.promote == "auto" and not (gate.min or gate.max):
            raise ValueError(
                "retrain.promote is 'auto' but register.gate has no limit, so that every version would become the "
                "champion: set limits, or promote by hand ('manual')"
            )
        return self

    @model_validator(mode="after")
    def body_takes_its_weights(self) -> Config:
        if self.train_encoder.encoder_start == "body" and self.model.encoder_body != "ir_se50":
            raise ValueError(
                f"train_encoder.encoder_start 'body' needs model.encoder_body 'ir_se50', it is"
                f" '{self.model.encoder_body}': set both, or start in another way"
            )
        return self

    @model_validator(mode="after")
    def encoder_can_start(self, info: ValidationInfo) -> Config:
        """What training.start would refuse, hours of rendering or downloads later."""
        start, chosen = self.train_encoder.encoder_start, self.pretrained
        if start == "pretrained" and chosen.decoder != "small":
            raise ValueError(
                "train_encoder.encoder_start is 'pretrained', which inverts the small decoder, but pretrained.decoder"
                f" is '{chosen.decoder}': set encoder_start to 'body' or 'new'"
            )
        if chosen.decoder == "small" and chosen.encoder == "none":
            raise ValueError(
                "pretrained.encoder is 'none', but the small decoder's mean code stands there: set it to 'small'"
            )
        if start == "body" and chosen.encoder_body == "none":
            fitting = " or ".join(_catalogue(chosen, info).fitting("encoder_body"))
            raise ValueError(
                "train_encoder.encoder_start is 'body', but pretrained.encoder_body is 'none': choose"
                f" {fitting}, or set encoder_start to 'new'"
            )
        return self


# Of an address: what a wrong value shows must not show this.
_PASSWORD = re.compile(r"(://[^/\s:@]*:)[^/\s@]+@")
_KINDS = ("rendered", "folder", "ffhq", "celeba_hq", "archive")
_ADD = "add it (the committed params.yaml shows an example)"
_UNSTATED = ("missing", "string_type", "string_too_short")
_STATE = {
    "licence": "state in one line under which licence the pictures are",
    "terms": "state in one line what may be done with the pictures: consent, purpose, limits",
}


def from_mapping(values: Any, origin: str, folder: Path = Path()) -> Config:
    """Check parsed parameters.

    Args:
        origin: is named in errors. folder: of the project, where a relative pretrained.catalogue begins.
    Raises:
        ConfigError: with one line a mistake: where, what was given, what is wanted.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{origin}: expected sections with keys, found {type(values).__name__}")
    try:
        return Config.model_validate(values, context={"folder": folder})
    except ValidationError as error:
        lines = []
        for mistake in error.errors():
            # pydantic puts the tag of a union into the path; a user's file has no such level.
            where = ".".join(str(part) for part in mistake["loc"] if part not in _KINDS)
            if mistake["type"] == "extra_forbidden":
                lines.append(f"{where}: unknown key; remove it or correct its spelling")
            elif (key := where.rpartition(".")[2]) in _STATE and mistake["type"] in _UNSTATED:
                lines.append(f"{where}: missing; {_STATE[key]}")
            elif mistake["type"] == "missing":
                lines.append(f"{where}: missing; {_ADD}")
            elif mistake["type"] == "value_error":
                lines.append(mistake["msg"].removeprefix("Value error, "))
            else:
                lines.append(f"{where}: {mistake['msg']}, got {mistake['input']!r}")
        raise ConfigError(_PASSWORD.sub(r"\1***@", f"{origin}: " + "; ".join(lines))) from None


def load(path: Path = Path("params.yaml")) -> Config:
    """Read and check a params.yaml; its folder is the project's.

    Raises:
        ConfigError: the file is missing, not YAML, or holds a wrong value.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist: run in the project's folder, or name a file") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    return from_mapping(values, str(path), path.parent)
