"""Stage `pretrain_faces` (frozen): makes the starter for photographs again, or one of one's own."""

from __future__ import annotations

import argparse

import torch

from styleblend.data import forgotten
from styleblend.errors import StyleBlendError
from styleblend.pretraining.starter import pretrain_faces
from styleblend.stages.entry import Config, run


def main(given: argparse.Namespace, cfg: Config) -> None:
    """Stage `pretrain_faces` (frozen): makes the starter for photographs again, or one of one's own.

    Git holds its output, so DVC runs it only after `dvc unfreeze pretrain_faces`. It takes as many hours as its steps
    take, in as many sittings as one likes: what is in .state/pretrain_faces goes on.
    """
    recipe = cfg.pretrain_faces
    if recipe is None:
        raise StyleBlendError(f"{given.params} has no section pretrain_faces: copy it from the committed params.yaml")
    if given.start is not None:
        recipe = recipe.model_copy(update={"start": given.start})
    # Two threads a process gain little on small pictures and take the other core from whoever works on it.
    torch.set_num_threads(max(1, int(recipe.training.cpus_per_worker)))
    without = None if given.forgotten is None else forgotten.read(given.forgotten)
    card = pretrain_faces(recipe, given.small, given.out, without=without)
    faces = sum(source["faces"] for source in card["data"])
    print(f"pretrain_faces: {given.out} learned from {faces} faces; {card['licence']}")


if __name__ == "__main__":
    run("pretrain_faces", main, "small", "out", optional=("forgotten", "start"))
