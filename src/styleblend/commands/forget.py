"""`styleblend forget`: takes pictures and persons out of the data for good, and says which versions know them."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from styleblend.config.params import load_params
from styleblend.config.tracking import Tracking
from styleblend.data import forgotten, removal
from styleblend.errors import StyleBlendError
from styleblend.pretraining import sittings
from styleblend.registry import learned, mlflow_store
from styleblend.system import dvc
from styleblend.system.lock import only_one


def run(given: Namespace) -> None:
    """Put each name on the list, take it out of the data that are there, and print what that was.

    Raises:
        StyleBlendError: a name is neither a picture nor a person, and nothing was done; or, after the removal, the
            registry cannot be asked.
    """
    cfg, project = load_params(given.params), given.params.parent
    recipe = project / sittings.STATE
    of_recipe = sittings.alone(recipe) if recipe.is_dir() else nullcontext()
    # A retraining must not read tables while they change.
    with only_one(project.absolute(), "styleblend forget"), of_recipe:
        named = [removal.find(project, name, sittings.prepared(recipe)) for name in given.names]
        folder = project / forgotten.FOLDER
        # Before anything is removed: what is broken off is done by the next run.
        listed = forgotten.read(folder).also(
            (digest for each in named if each.person is None for digest in each.pictures),
            (each.person for each in named if each.person is not None),
        )
        forgotten.write(listed, folder)
        removed: Counter[str] = Counter()
        for each in named:
            removed.update(removal.remove(project, each.pictures, each.person))
        prepared = sittings.forget(recipe, listed)
    for each in named:
        print(f"forget: {each.words}: {len(each.pictures)} pictures")
    print(f"forget: removed {', '.join(f'{count} {what}' for what, count in removed.items())}")
    print(f"forget: {folder / forgotten.FILE} names {listed.size} by hashes: commit it, and the data stay without them")
    if unlabelled := [each for each in named if each.words == "person without a label"]:
        print(f"forget: {len(unlabelled)} have no label, so further pictures of them would not be known")
    for line in _of_recipe(recipe, prepared):
        print(f"forget: {line}")
    for line in _versions(mlflow_store.resolved(cfg.tracking, project.absolute()), named, _cache(project)):
        print(f"forget: {line}")
    print("forget: now run `dvc repro`, then `dvc gc --workspace` takes the pictures out of DVC's cache; what the")
    print("forget: sources hold, what was copied elsewhere (remotes, MLflow's grids), is for you to remove")


def _of_recipe(recipe: Path, faces: set[str]) -> Iterator[str]:
    """What pretrain_faces had of them, a line each."""
    if faces:
        yield f"{len(faces)} faces that were prepared for pretrain_faces are removed; the others are prepared again"
    for training in sittings.learned_from(recipe, faces):
        yield f"{training} was dealt some of them; no sitting goes on there, so remove it, with its weights and grids"


def _versions(cfg: Tracking, named: list[removal.Named], cache: Path | None) -> Iterator[str]:
    """A line for each version that knows one of them, or of which that cannot be said."""
    told = False
    totals: dict[str, list[learned.Use]] = {}
    try:
        for each in named:
            for use in learned.uses(cfg, each.pictures, each.person, cache):
                totals.setdefault(use.version.version, []).append(use)
    except mlflow_store.NoVersion:
        pass
    for uses in totals.values():
        version = uses[0].version
        aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
        learnt, measured = sum(use.learned for use in uses), sum(use.measured for use in uses)
        unknown = next((use.unknown for use in uses if use.unknown), "")
        if learnt:
            yield f"{version.title}{aliases} learned from {learnt} of them: its weights keep what they showed"
        elif unknown:
            yield f"{version.title}{aliases}: whether it learned from them cannot be said, {unknown}"
        elif measured:
            yield f"{version.title}{aliases} did not learn from them; {measured} were among what it was measured on"
        told = told or bool(learnt or unknown or measured)
    if not told:
        yield "no registered version learned from them"


def _cache(project: Path) -> Path | None:
    try:
        return project / dvc.says(project, "cache", "dir").strip()
    except StyleBlendError:
        return None
