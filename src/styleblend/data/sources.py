"""Where pictures come from: faces rendered here, a person's own photographs, or a published data set.

A source becomes `<raw>/<source>/images/...` and `<raw>/<source>/index.parquet`, one row a file: what it is,
its SHA-256, its licence and terms, and for rendered faces the seed, person and picture that make it again.

Finished pictures wait in a state folder, named after the source's settings, until every source is complete.
DVC removes a stage's outputs before it runs: a partial output would not survive a kill, this folder does.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from styleblend.config import sources as config
from styleblend.config.sources import RenderedSource, Source, Sources
from styleblend.data import published
from styleblend.data.archives import left_out, unpacked
from styleblend.data.folders import list_folder
from styleblend.data.forgotten import Forgotten
from styleblend.data.index import INDEX, read_index, write_rows
from styleblend.data.published import Listed
from styleblend.errors import StyleBlendError, shown
from styleblend.faces.pictures import UnusablePicture, width_px
from styleblend.provenance import save_picture
from styleblend.system.files import fingerprint, md5, safe_name, sha256, whole_file, whole_folder
from styleblend.system.parallel import spread

PhotographSource = config.FolderSource | config.FfhqSource | config.CelebaHqSource | config.ArchiveSource

# Pictures a task. Fixed, so that a picture is always made in the same batch, and so bit for bit alike.
RENDERED_TOGETHER = 12


@dataclass(frozen=True)
class RenderTask:
    """Consecutive pictures of a rendered source, made in one batch."""

    source: RenderedSource
    first: int
    last: int
    work: Path


@dataclass(frozen=True)
class CopyTask:
    """One photograph that is there: where it is below `folder`, and what is known of it."""

    source: PhotographSource
    folder: Path
    listed: Listed
    work: Path


@dataclass(frozen=True)
class RefuseTask:
    """One file of a source that is not read, for a reason: it gets a row of the index and no copy."""

    source: PhotographSource
    relative: Path
    reason: str
    is_picture: bool


Task = RenderTask | CopyTask | RefuseTask


def gather(cfg: Sources, out: Path, state: Path, without: Forgotten | None = None) -> pd.DataFrame:
    """Fill `out` with every source's pictures and index; return all indexes, one row a picture.

    without: pictures and persons that are left out.

    A killed gather goes on from the pictures in `state`; those that differ from their record are made again.

    Raises:
        StyleBlendError: a folder is missing, holds no picture, or the disk takes no more copies.
    """
    works = {source.name: state / f"download-{_fingerprint(source)}" for source in cfg.sources}
    # All tasks are listed before any work: an empty folder is reported now, not after an hour of rendering.
    tasks = {source.name: list(_tasks(source, works[source.name], state, cfg.workers)) for source in cfg.sources}
    rows = {
        name: [row for made in spread(_make, tasks[name], cfg.workers, f"download {name}") for row in made]
        for name in tasks
    }
    if without is not None:
        rows = _remembered(rows, without)
    with whole_folder(out) as partial:
        for name, work in works.items():
            (partial / name).mkdir()
            wanted = {row["path"] for row in rows[name] if row.get("refused") is None}
            for path in wanted:
                (partial / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.move(work / Path(path).relative_to(name), partial / path)
            write_rows(rows[name], INDEX, partial / name / "index.parquet")
    for work in works.values():
        shutil.rmtree(work)
    return read_index(out)


def _remembered(rows: dict[str, list[dict[str, Any]]], without: Forgotten) -> dict[str, list[dict[str, Any]]]:
    """The rows of each source without what is to be forgotten."""
    left = {name: [row for row in found if not without.holds(row)] for name, found in rows.items()}
    gone = sum(map(len, rows.values())) - sum(map(len, left.values()))
    if gone and not any(left.values()):
        raise StyleBlendError(f"all {gone} pictures of download.sources are to be forgotten: name other sources")
    if gone:
        print(f"download: {gone} pictures are forgotten, and left out")
    return left


def _fingerprint(source: Source) -> str:
    settings = source.model_dump_json()
    if source.kind == "rendered":
        return fingerprint(settings, Path(__file__).parents[1] / "synthetic")
    return fingerprint(settings, str(source.path.absolute()) if source.path else "")


def _tasks(source: Source, work: Path, state: Path, workers: int) -> Iterator[Task]:
    if source.kind == "rendered":
        total = source.identities * source.pictures_per_identity
        for first in range(0, total, RENDERED_TOGETHER):
            yield RenderTask(source, first, min(first + RENDERED_TOGETHER, total), work)
    else:
        folder = _folder(source, state, workers)
        if isinstance(source, published.Published):
            for listed in published.SETS[source.kind].pictures(source, folder):
                yield CopyTask(source, folder, listed, work)
            return
        found = list_folder(folder)
        for listed in _listed(source, found.pictures):
            yield CopyTask(source, folder, listed, work)
        for each in found.passed_over:
            yield RefuseTask(source, each.relative, each.reason, each.is_picture)
        for relative, reason in left_out(folder).items():
            yield RefuseTask(source, Path(relative), reason, True)


def _folder(source: PhotographSource, state: Path, workers: int) -> Path:
    """Where the pictures of a source lie on this machine; an archive is fetched and unpacked first."""
    match source:
        case config.FolderSource():
            return source.path
        case config.ArchiveSource():
            return unpacked(source, state, workers)
    if source.path is None or not source.path.is_dir():
        return published.pictures_folder(source, unpacked(source, state, workers, published.NEEDED))
    if source.sha256 is not None:
        raise StyleBlendError(f"source '{source.name}' has a sha256, but {source.path} is a folder: set it to null")
    return published.pictures_folder(source, source.path)


def _listed(source: config.FolderSource | config.ArchiveSource, pictures: Iterable[Path]) -> list[Listed]:
    url = source.url if isinstance(source, config.ArchiveSource) else None
    by_folder = source.label == "parent_folder"
    return [
        Listed(
            relative,
            person=shown(relative.parent.as_posix()) if by_folder and relative.parent != Path() else None,
            licence=source.licence,
            terms=source.terms,
            url=url,
        )
        for relative in pictures
    ]


def _make(task: Task) -> list[dict[str, Any]]:
    match task:
        case RenderTask():
            return _render(task)
        case CopyTask():
            return [_copy(task)]
    return [_refused(task)]


def _refused(task: RefuseTask) -> dict[str, Any]:
    return {
        "source": task.source.name,
        "path": _place(task.source, task.relative),
        "refused": task.reason,
        "is_picture": task.is_picture,
    }


def _place(source: PhotographSource, relative: Path) -> str:
    """Where a file's copy lies below the raw folder, and its name in all tables."""
    return (Path(source.name, "images") / safe_name(relative)).as_posix()


def _copy(task: CopyTask) -> dict[str, Any]:
    """A copy, not a hard link: DVC makes its cached files read-only, which would reach the original."""
    listed = task.listed
    original = task.folder / listed.relative
    copy = task.work / "images" / safe_name(listed.relative)
    try:
        content = sha256(original)
        # A file that cannot be read, for one, is nobody's reason to lose the others.
        landmarks = _landmarks(original, listed)
    except UnusablePicture as unusable:
        return _refused(RefuseTask(task.source, listed.relative, str(unusable), True))
    except OSError as error:
        reason = f"cannot be read ({error.strerror or error})"
        return _refused(RefuseTask(task.source, listed.relative, reason, True))
    try:
        if not copy.is_file() or sha256(copy) != content:
            if listed.md5 is not None and (found := md5(original)) != listed.md5:
                reason = f"it has md5 {found}, published is {listed.md5}: fetch this picture again"
                return _refused(RefuseTask(task.source, listed.relative, reason, True))
            with whole_file(copy, lasting=False) as partial:
                shutil.copyfile(original, partial)
    except OSError as error:
        raise StyleBlendError(
            f"{original} cannot be copied to {copy} ({error.strerror}): mend that and start again to go on"
        ) from None
    return {
        "source": task.source.name,
        "path": _place(task.source, listed.relative),
        "sha256": content,
        **{key: getattr(listed, key) for key in ("url", "licence", "terms", "author", "person")},
        "landmarks": landmarks,
        "weight": task.source.weight,
    }


def _landmarks(original: Path, listed: Listed) -> list[float] | None:
    if listed.landmarks is None or listed.side_px is None:
        return None if listed.landmarks is None else list(listed.landmarks)
    scale = width_px(original) / listed.side_px
    # Points count from the centre of the first pixel, pictures are scaled about its corner.
    return [(value + 0.5) * scale - 0.5 for value in listed.landmarks]


def _render(task: RenderTask) -> list[dict[str, Any]]:
    record = task.work / "records" / f"{task.first:08d}.json"
    if record.exists():
        rows: list[dict[str, Any]] = json.loads(record.read_text())
        kept = {task.work / Path(row["path"]).relative_to(task.source.name): row["sha256"] for row in rows}
        if all(path.is_file() and sha256(path) == content for path, content in kept.items()):
            return rows

    # Imported here: a process that copies or aligns photographs starts several seconds sooner without torch.
    import torch

    from styleblend.faces.pixels import to_8bit
    from styleblend.synthetic import factors, renderer

    # The workers are the parallelism; threads of several processes on the same cores slow one another down.
    torch.set_num_threads(1)
    source = task.source
    numbers = [divmod(index, source.pictures_per_identity) for index in range(task.first, task.last)]
    persons, pictures = zip(*numbers, strict=True)
    sampled = factors.sample(source.seed, persons, pictures, source.even_yaw_deg)
    render = renderer.render(sampled, source.size_px, source.supersample)
    rows = []
    levels = to_8bit(render.images).permute(0, 2, 3, 1).contiguous().numpy()
    for (person, picture), pixels, landmarks in zip(numbers, levels, render.landmarks_px, strict=True):
        place = Path("images") / f"{person:05d}" / f"{picture:03d}.png"
        (task.work / place).parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pixels)
        save_picture(image, task.work / place, model="styleblend.synthetic", kind="rendered", lasting=False)
        rows.append(
            {
                "source": source.name,
                "path": (source.name / place).as_posix(),
                "sha256": sha256(task.work / place),
                "licence": "CC0-1.0",
                "terms": "rendered by StyleBlend; shows no real person",
                "person": f"{source.name}-{person:05d}",
                "render_seed": source.seed,
                "render_person": person,
                "render_picture": picture,
                "landmarks": [round(value, 3) for value in landmarks.flatten().tolist()],
                "weight": source.weight,
            }
        )
    with whole_file(record) as partial:
        partial.write_text(json.dumps(rows))
    return rows
