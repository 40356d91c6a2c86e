"""`styleblend preset`: change params.yaml to a preset."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, _SubParsersAction
from pathlib import Path

from styleblend.experiments import presets
from styleblend.system.lock import only_one


def add_parser(commands: _SubParsersAction[ArgumentParser], common: ArgumentParser) -> None:
    """Add the subcommand with its options."""
    add = commands.add_parser(
        "preset", parents=[common], help="change params.yaml to a preset: photos, standard, paper"
    )
    add.add_argument("name", help="file below presets/ without its ending; none takes a preset back")
    add.add_argument("--folder", type=Path, help="folder with your photographs, in any nesting")
    add.add_argument("--ffhq", type=Path, metavar="PLACE", help="folder of FFHQ, or a zip or tar file of it")
    add.add_argument("--celeba-hq", type=Path, metavar="PLACE", help="folder of CelebA-HQ, or a zip or tar file of it")
    add.add_argument("--mirror", type=Path, help="folder with pretrained files, where there is no internet")
    add.add_argument("--licence", help="licence of the photographs, as their owner states it")
    add.add_argument("--terms", help="what may be done with them: consent, purpose, limits")
    add.set_defaults(run=run)


def run(given: Namespace) -> None:
    """Apply a preset and print what changed."""
    options = {name: getattr(given, name) for name in ("folder", "mirror", "licence", "terms", "ffhq", "celeba_hq")}
    # An ablation or a retraining writes its own settings into params.yaml while it runs.
    with only_one(given.params.absolute().parent, "styleblend preset"):
        lines = presets.apply(given.name, given.params, given.params.parent / "presets", **options)
    print("\n".join(lines) or f"{given.params} had these values already")
    if lines:
        print("now run: dvc repro (`styleblend preset none` goes back)")
