"""The pictures of the sources as `styleblend doctor` finds them: listed once, counted, with their licences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from styleblend.commands.findings import Finding, Verdict
from styleblend.config.params import Config
from styleblend.config.sources import CelebaHqSource, FfhqSource, Source
from styleblend.data import licences, published
from styleblend.data.folders import pictures_below
from styleblend.data.published import CELEBA_LICENCE, CELEBA_TERMS, FFHQ_LICENCE, FFHQ_TERMS
from styleblend.errors import StyleBlendError

BESIDE = ("metadata", "mapping", "identities")
"""Keys of sources that name a file beside the pictures."""


@dataclass(frozen=True)
class Listing:
    """The pictures in a source's folder that a run would take, or in one line why they cannot be listed."""

    files: tuple[Path, ...] = ()
    problem: str | None = None


def listings(cfg: Config, project: Path) -> dict[str, Listing]:
    """Source name to what is in its folder; sources that are rendered, packed, fetched or missing have no entry."""
    listed = {}
    for source in cfg.download.sources:
        if source.kind != "rendered" and source.path is not None and (project / source.path).is_dir():
            try:
                problem = _lacking(source, project)
                listed[source.name] = Listing(() if problem else _files(source, project, source.path), problem)
            except StyleBlendError as error:
                listed[source.name] = Listing(problem=str(error))
    return listed


def _files(source: Source, project: Path, path: Path) -> tuple[Path, ...]:
    """The pictures of a folder; of a published set those that the files beside it name.

    Raises:
        StyleBlendError: a published set is not there in one of its forms, or a file beside it is of another set.
    """
    folder = project / path
    if not isinstance(source, FfhqSource | CelebaHqSource):
        return tuple(folder / file for file in pictures_below(folder))
    folder = published.pictures_folder(source, folder)
    own = source.model_copy(update={name: project / file for name, file in _beside(source)})
    listed = published.ffhq(own, folder) if isinstance(own, FfhqSource) else published.celeba_hq(own, folder)
    return tuple(folder / each.relative for each in listed)


def _beside(source: Source) -> list[tuple[str, Path]]:
    return [(name, file) for name in BESIDE if (file := getattr(source, name, None)) is not None]


def _lacking(source: Source, project: Path) -> str | None:
    """The first file beside the pictures that is named but not there, with the remedy."""
    missing = (f"{name} {file}" for name, file in _beside(source) if not (project / file).is_file())
    return next((f"{each} is missing: put it there, or name another" for each in missing), None)


def data(cfg: Config, project: Path, listed: dict[str, Listing]) -> Iterator[Finding]:
    """Sources: are they there, how many pictures, and what their licences allow.

    Args:
        listed: as `listings` gives them.
    """
    known, total = True, 0
    for source in cfg.download.sources:
        if source.kind == "rendered":
            count = source.identities * source.pictures_per_identity
            total += count
            yield Finding("data", "ok", f"{source.name}: {count} faces are rendered here; no person's likeness")
            continue
        licence, listing = _licence(source), listed.get(source.name)
        problem = _lacking(source, project) if listing is None else listing.problem
        if problem is not None:
            yield Finding("data", "FAIL", f"{source.name}: {problem}")
        if listing is not None and problem is None:
            count = len(listing.files)
            total += count
            verdict: Verdict = "ok" if count else "FAIL"
            remedy = licence if count else "put the pictures there, or correct download.sources"
            yield Finding("data", verdict, f"{source.name}: {count} pictures in {source.path}; {remedy}")
            continue
        known = False
        if source.path is None:
            yield Finding("data", "note", f"{source.name}: is fetched from {getattr(source, 'url', None)}; {licence}")
        elif (project / source.path).is_file():
            yield Finding("data", "ok", f"{source.name}: {source.path} is unpacked by the run; {licence}")
        elif listing is None:
            yield Finding(
                "data", "FAIL", f"{source.name}: {source.path} is missing: put the data set there, or correct the path"
            )
    if known and total < cfg.validate_.min_faces:
        yield Finding(
            "data",
            "FAIL",
            f"{total} pictures in all, validate.min_faces wants {cfg.validate_.min_faces} faces: add pictures, or"
            " lower it",
        )
    if not (project / cfg.download.origin).exists():
        yield Finding("data", "FAIL", f"download.origin {cfg.download.origin} is missing: name the pictures' folder")


def _licence(source: Source) -> str:
    by_kind = {"ffhq": (FFHQ_LICENCE, FFHQ_TERMS), "celeba_hq": (CELEBA_LICENCE, CELEBA_TERMS)}
    licence, terms = by_kind.get(source.kind) or (getattr(source, "licence", ""), getattr(source, "terms", ""))
    limited = licences.forbids(f"{licence} | {terms}")
    return f"{licence}{' (not for commercial use)' if limited else ''}"
