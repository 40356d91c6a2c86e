"""Section `download`: where pictures come from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from styleblend.config.base import Section, Statement, expect_no_password

SourceWeight = Annotated[float, Field(gt=0, description="how often training draws a picture of it; 1 as a rule")]
Label = Annotated[Literal["none", "parent_folder"], Field(description="where the name of the person stands")]
Licence = Annotated[Statement, Field(description="licence of the pictures, as their owner states it")]
Terms = Annotated[Statement, Field(description="what may be done with them: consent, purpose, limits")]


class PictureSource(Section):
    """Base of the sources of pictures."""

    show: bool = Field(True, description="whether reports of an evaluation may hold its pictures, and swaps of them")

    @property
    def annotated(self) -> bool:
        """Whether each picture comes with its 68 landmarks."""
        return False


class RenderedSource(PictureSource):
    """Faces that the project renders itself: exact ground truth, no download, no person's likeness."""

    kind: Literal["rendered"]
    name: str = Field("rendered", pattern=r"^[a-z0-9_]+$")
    identities: int = Field(ge=6, description="how many different people")
    pictures_per_identity: int = Field(ge=2, description="pictures of each, with other pose, expression and light")
    size_px: int = Field(112, ge=32, le=1024, description="side of the rendered photograph, before alignment")
    supersample: int = Field(2, ge=1, le=4, description="rays per pixel and axis")
    even_yaw_deg: float | None = Field(None, gt=0, le=90, description="even yaw up to this; null: to 45, mostly ahead")
    seed: int = Field(ge=0)
    weight: SourceWeight = 1

    @property
    def annotated(self) -> bool:
        return True


class FolderSource(PictureSource):
    """A person's own photographs, in any nesting. A sub-folder per person gives labels if `label` says so."""

    kind: Literal["folder"]
    name: str = Field("folder", pattern=r"^[a-z0-9_]+$")
    path: Path = Field(description="folder with photographs; relative to the project or absolute")
    label: Label = "none"
    licence: Licence
    terms: Terms
    weight: SourceWeight = 1


class PackedSource(PictureSource):
    """What the sources share that may lie in a zip or tar file, here or behind a url."""

    name: str
    path: Path | None = Field(None, description="zip or tar file on this machine; of a published set its folder, too")
    url: str | None = Field(None, pattern=r"^https?://", description="where the file is to be had; in place of path")
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", description="of the file; a url needs it")

    @model_validator(mode="after")
    def one_origin(self) -> PackedSource:
        remedy = "download the file yourself and give its path"
        expect_no_password(f"the url of source '{self.name}'", self.url, remedy)
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
    form: Literal["aligned", "in_the_wild", "resized"] = Field("aligned", description="resized: aligned, not 1024 px")
    metadata: Path | None = Field(None, description="ffhq-dataset-v2.json: landmarks, licence and author of each")
    licences: Literal["all", "permissive"] = Field("all", description="permissive: commercial use; needs metadata")
    weight: SourceWeight = 1

    @property
    def annotated(self) -> bool:
        return self.metadata is not None


class CelebaHqSource(PackedSource):
    """CelebA-HQ as numbered pictures; with mapping and identities, splits are by person for sure.

    `path` is CelebA-HQ-img or a folder of 00000.png and so on, a folder above it, or a zip or tar file of either, as
    CelebAMask-HQ.zip.
    """

    kind: Literal["celeba_hq"]
    name: str = Field("celeba_hq", pattern=r"^[a-z0-9_]+$")
    numbered_from: Literal[0, 1] = Field(0, description="number in the name of the first picture")
    mapping: Path | None = Field(None, description="CelebA-HQ-to-CelebA-mapping.txt; null: beside the pictures")
    identities: Path | None = Field(None, description="identity_CelebA.txt, which CelebA's authors give on request")
    weight: SourceWeight = 1

    @model_validator(mode="after")
    def mapping_needs_identities(self) -> CelebaHqSource:
        if self.mapping is not None and self.identities is None:
            raise ValueError(f"source '{self.name}' has mapping but no identities: give both or none")
        return self


class ArchiveSource(PackedSource):
    """Any photographs in a zip or tar file, here or behind a url."""

    kind: Literal["archive"]
    name: str = Field("archive", pattern=r"^[a-z0-9_]+$")
    label: Label = "none"
    licence: Licence
    terms: Terms
    weight: SourceWeight = 1


AnySource = RenderedSource | FolderSource | FfhqSource | CelebaHqSource | ArchiveSource
Source = Annotated[AnySource, Field(discriminator="kind")]


class Sources(Section):
    """Where pictures come from, and how many processes fetch them."""

    sources: tuple[Source, ...] = ()
    workers: int = Field(2, ge=1, description="parallel processes")

    @model_validator(mode="after")
    def each_has_a_name(self) -> Sources:
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError(f"sources have the names {names}: give each source a name of its own")
        return self


class Download(Sources):
    sources: tuple[Source, ...] = Field(min_length=1)
    origin: Path = Field(description="what the pictures come from; dvc.yaml watches it, so new photographs count")

    @property
    def places(self) -> tuple[Path, ...]:
        """Folders and archives of photographs on this machine: what may be missing, and what may change."""
        return tuple(s.path for s in self.sources if not isinstance(s, RenderedSource) and s.path is not None)

    @model_validator(mode="after")
    def sources_fit(self) -> Download:
        for place in self.places:
            if not place.is_relative_to(self.origin):
                raise ValueError(f"download.origin '{self.origin}' does not hold '{place}': set it to one that does")
        return self
