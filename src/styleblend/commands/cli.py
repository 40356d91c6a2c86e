"""The command `styleblend`: change settings, check them, see what came out, use the model.

The short subcommands are functions here; those of more than some lines are modules of this folder. What takes long to
import, as torch and MLflow, is imported inside the functions, since most subcommands do not need it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from styleblend.commands import evaluate
from styleblend.config.merge import merged
from styleblend.config.params import Config, load_params, parse_params
from styleblend.errors import StyleBlendError, printable_anywhere, shown
from styleblend.experiments import presets
from styleblend.system import environment
from styleblend.system.lock import only_one


def main(argv: Sequence[str] | None = None) -> None:
    """Run one subcommand. A StyleBlendError is one line and exit code 1; a wrong command line is exit code 2."""
    # A name that the terminal's encoding lacks is shown with escapes, and ends nothing after the work is done.
    printable_anywhere()
    given = _parser().parse_args(argv)
    given.settled = environment.settle(getattr(given, "params", Path("params.yaml")).parent)
    try:
        given.run(given)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, as `head`, has closed the pipe: what is still buffered is discarded.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except StyleBlendError as error:
        sys.exit(f"styleblend {given.command}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"styleblend {given.command}: stopped")


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="styleblend", description="Face swapping by style blending.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = ArgumentParser(add_help=False)
    common.add_argument("--params", type=Path, default=Path("params.yaml"), help="settings (default: %(default)s)")

    def command(name: str, run: Callable[[Namespace], None], help: str, settings: bool = True) -> ArgumentParser:
        added = commands.add_parser(name, parents=[common] if settings else [], help=help)
        added.set_defaults(run=run)
        return added

    command("check", _check, "check params.yaml and the folders that it names")
    command("tracking", _tracking, "the address of MLflow's store; takes over one that was moved with its files")
    command("doctor", _doctor, "what is there and what lacks for a run; exit code 1 if it would fail")
    add = command("preset", _preset, "change params.yaml to a preset: faces, standard, paper")
    add.add_argument("name", help="file below presets/ without its ending; none takes a preset back")
    add.add_argument("--folder", type=Path, help="folder with your photographs, in any nesting")
    help = "where the names of the persons stand: their folders' names, or nowhere (default: none)"
    add.add_argument("--label", choices=("none", "parent_folder"), help=help)
    add.add_argument("--ffhq", type=Path, metavar="PLACE", help="folder of FFHQ, or a zip or tar file of it")
    add.add_argument("--celeba-hq", type=Path, metavar="PLACE", help="folder of CelebA-HQ, or a zip or tar file of it")
    add.add_argument("--mirror", type=Path, help="folder with pretrained files, where there is no internet")
    add.add_argument("--licence", help="licence of the photographs, as their owner states it")
    add.add_argument("--terms", help="what may be done with them: consent, purpose, limits")
    add = command(
        "weights", _weights, "pretrained networks of the catalogue: list, show, fetch, verify, where", settings=False
    )
    actions = add.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", parents=[common], help="all, with state, size, licence, and what this run uses")
    add = actions.add_parser("fetch", parents=[common], help="get those that the settings ask for, or the named")
    add.add_argument("names", nargs="*", metavar="NAME", help="of the catalogue")
    add.add_argument("--mirror", type=Path, metavar="DIR", help="folder with files or packs, in place of the settings'")
    actions.add_parser("verify", parents=[common], help="check all that are here; exit code 1: one is wrong")
    add = actions.add_parser("show", parents=[common], help="all of one: origin, licence, what is not verified")
    add.add_argument("name", metavar="NAME")
    add = actions.add_parser("where", parents=[common], help="path of a network's file")
    add.add_argument("name", metavar="NAME")
    add = command("forget", _forget, "take pictures or persons out of the data for good; says which versions know them")
    help = "file of a picture, path in data/raw, id of a face, or name of a person"
    add.add_argument("names", nargs="+", metavar="NAME", help=help)
    help = "train variants with one change each, and compare them; can be interrupted"
    add = command("ablate", _ablate, help, settings=False)
    add.add_argument("names", nargs="*", metavar="VARIANT", help="of presets/ablations/variants.yaml; none: all")
    help = "measure any method's swapped pictures by a pair list, or the model's spread over seeds"
    evaluate.add_options(command("evaluate", evaluate.run, help))
    add = command("describe", _describe, "sizes of the networks, and what training asks for, without training")
    add.add_argument("--preset", metavar="NAME", help="of presets/NAME.yaml on top of params.yaml; changes no file")
    add.add_argument("--gpus", type=int, metavar="N", help="GPUs that share a step (default: workers of the stage)")
    help = "pairs of pictures a GPU (default: batch_size / GPUs)"
    add.add_argument("--image-batch", type=int, metavar="N", help=help)
    add.add_argument("--depth", type=int, default=1, metavar="N", help="levels of modules to show (default: 1)")
    help = "also: the largest batch on cards of 11 to 141 GB, and hours on 1 to 64 GPUs, computed"
    add.add_argument("--cost", action="store_true", help=help)
    help = "--cost: measured time of a step of the first stage with the pairs of one GPU, in place of the next two"
    add.add_argument("--seconds-per-step", type=float, metavar="S", help=help)
    help = "--cost: rate of the card by its data sheet, in 10^12 operations a second (default: %(default)s)"
    add.add_argument("--tflops", type=float, default=100, metavar="T", help=help)
    help = "--cost: the share of that rate that a step reaches (default: %(default)s)"
    add.add_argument("--share", type=float, default=0.3, metavar="F", help=help)
    help = "--cost: GB a second between GPUs, for the exchange of gradients (default: %(default)s)"
    add.add_argument("--link", type=float, default=10, metavar="GB", help=help)
    _add_swap_options(command("swap", _swap, "put the source's identity into the target's face"))
    add = command("serve", _serve, "swap over HTTP, with a page to try it; follows the alias champion")
    help = "folder, alias, number or `starter` to stay with (default: follow the alias of `follow`)"
    add.add_argument("--model", help=help)
    add.add_argument("--detector-weights", type=Path, metavar="FILE", help="file of the face detector")
    add.add_argument("--host", help="address to listen at (default: serve.host of the settings)")
    add.add_argument("--port", type=int, help="0 takes a free one (default: serve.port of the settings)")
    help = "which marks of a synthetic picture a file has; exit code 0: one at least, 1: none, 2: unreadable"
    add = command("verify", _verify, help, settings=False)
    add.add_argument("picture", type=Path)
    add.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    add.add_argument("--trust", type=Path, metavar="FILE", help="PEM certificates whose signatures are trusted")
    add = command("compare", _compare, "two versions side by side: figures and swaps")
    add.add_argument("first", nargs="?", default="candidate", help="alias or number (default: %(default)s)")
    add.add_argument("second", nargs="?", default="champion", help="alias or number (default: %(default)s)")
    picture = Path("reports/comparison.png")
    add.add_argument("-o", "--output", type=Path, default=picture, help="picture to write (default: %(default)s)")
    add = command("reproduce", _reproduce, "train a version again from what made it; exit code 1 if it is not the same")
    add.add_argument("version", help="alias or number")
    add.add_argument("--quick", action="store_true", help="train nothing: check the version's model by its dvc.lock")
    command("report", _report, "what the last run made, in a few lines")
    return parser


def _add_swap_options(add: ArgumentParser) -> None:
    add.add_argument("source", type=Path, help="picture whose face gives the identity")
    help = "picture, pictures or folder that keep pose, expression, light and background"
    add.add_argument("targets", type=Path, nargs="+", metavar="target", help=help)
    add.add_argument("-o", "--output", type=Path, required=True, help="picture (.png, .jpg) or folder to write")
    help = "folder, alias, number or `starter` (default: champion, else candidate, else starter)"
    add.add_argument("--model", help=help)
    add.add_argument("--detector-weights", type=Path, metavar="FILE", help="file of the face detector")
    add.add_argument("--source-face", type=int, metavar="NUMBER", help="which face, from the left, from 0")
    which = add.add_mutually_exclusive_group()
    which.add_argument("--target-face", type=int, metavar="NUMBER", help="which face, from the left, from 0")
    which.add_argument("--target-like", type=Path, metavar="PICTURE", help="the face of the person shown here")
    which.add_argument("--all-faces", action="store_true", help="every face of the target")
    which.add_argument("--aligned", action="store_true", help="all pictures are aligned faces: no detection")
    help = "colour behind transparent parts in a JPEG, which has no transparency (default: %(default)s)"
    add.add_argument("--background", default="white", metavar="COLOUR", help=help)
    add.add_argument("--overwrite", action="store_true", help="in a folder: make pictures again that are there")


def _check(given: Namespace) -> None:
    """Check the settings, and count the pictures in their folders and what is passed over."""
    from styleblend.data.folders import present
    from styleblend.registry import mlflow_store
    from styleblend.system import dvc
    from styleblend.weights.store import store_of

    cfg, project = load_params(given.params), given.params.parent
    dvc.expect_project(project)
    mlflow_store.expect_files(mlflow_store.resolved(cfg.tracking, project.absolute()))
    for line in present(cfg.download, project):
        print(f"check: {line}")
    if not (project / cfg.download.origin).exists():
        raise StyleBlendError(f"download.origin {cfg.download.origin} does not exist: name what the pictures come from")
    store_of(cfg.pretrained, project=project)
    if cfg.retrain.webhook and "${" not in cfg.retrain.webhook:
        print(
            f"check: retrain.webhook stands in {given.params}, which git and every version keep: if its address is a "
            "secret, put that part into the environment and name it as ${NAME}"
        )
    print(f"check: {given.params} is in order")


def _tracking(given: Namespace) -> None:
    """Print the address of MLflow's store, for whoever starts a program on it."""
    from styleblend.registry import mlflow_store

    cfg = mlflow_store.resolved(load_params(given.params).tracking, given.params.parent.absolute())
    mlflow_store.settle(cfg)
    print(cfg.uri)


def _doctor(given: Namespace) -> None:
    """Say what is there and what lacks for a run; exit code 1 if it would fail."""
    from styleblend.commands import doctor

    found = doctor.examine(load_params(given.params), given.params.parent, given.settled)
    print(doctor.text(found))
    if any(finding.verdict == "FAIL" for finding in found):
        sys.exit(1)


def _preset(given: Namespace) -> None:
    """Apply a preset and print what changed."""
    options = {
        name: getattr(given, name) for name in ("folder", "label", "mirror", "licence", "terms", "ffhq", "celeba_hq")
    }
    # An ablation or a retraining writes its own settings into params.yaml while it runs.
    with only_one(given.params.absolute().parent, "styleblend preset"):
        lines = presets.apply(given.name, given.params, given.params.parent / "presets", **options)
    print("\n".join(lines) or f"{given.params} had these values already")
    if lines:
        print("now run: dvc repro (`styleblend preset none` goes back)")


def _weights(given: Namespace) -> None:
    """Show, fetch and check pretrained networks."""
    from styleblend.commands import weights

    cfg, project = load_params(given.params).pretrained, given.params.parent
    if given.action == "list":
        print(weights.table(cfg, project))
    elif given.action == "fetch":
        weights.fetch(cfg, given.names, given.mirror, project)
    elif given.action == "show":
        print(weights.show(cfg, given.name, project))
    elif given.action == "where":
        print(weights.where(cfg, given.name, project))
    elif not weights.verify(cfg, project):
        sys.exit(1)


def _forget(given: Namespace) -> None:
    from styleblend.commands import forget

    forget.run(given)


def _ablate(given: Namespace) -> None:
    """Run the variants that have no result yet, and write the table."""
    from styleblend.experiments import ablations

    print(f"ablate: {ablations.ablate(Path(), given.names)}")


def _describe(given: Namespace) -> None:
    """Print the networks of a preset, or of params.yaml, and what training them asks for."""
    cfg = load_params(given.params) if given.preset is None else _with_preset(given.params, given.preset)
    from styleblend.commands import describe
    from styleblend.commands.cost import Cost

    taken = Cost(given.tflops, given.share, given.link, given.seconds_per_step) if given.cost else None
    found = describe.describe(cfg, given.gpus, given.image_batch, given.depth, taken, given.params.absolute().parent)
    print(describe.text(found))


def _with_preset(params: Path, name: str) -> Config:
    """The settings that `styleblend preset NAME` would write; nothing is written."""
    folder = params.parent / "presets"
    presets.expect_one_of(name, presets.names(folder))
    load_params(params)
    values, overrides = (
        yaml.safe_load(file.read_text()) for file in (presets.base_of(params), folder / f"{name}.yaml")
    )
    return parse_params(merged(values, overrides), f"{params} with preset {name}", params.parent)


def _swap(given: Namespace) -> None:
    from styleblend.commands import swap

    swap.run(given)


def _serve(given: Namespace) -> None:
    """Answer requests until a signal ends it."""
    from styleblend.serving import app
    from styleblend.swapping.errors import DetectorMissing

    cfg = load_params(given.params)
    host, port = given.host or cfg.serve.host, cfg.serve.port if given.port is None else given.port
    try:
        app.run(cfg, given.model, given.detector_weights, host, port)
    except DetectorMissing as error:
        raise StyleBlendError(f"{error.problem}, or name it with --detector-weights") from None


def _verify(given: Namespace) -> None:
    """Print the marks. Exit code 0: at least one; 1: none; 2: unreadable."""
    from styleblend.provenance import verification

    try:
        found = verification.verify(given.picture, given.trust)
    except StyleBlendError as error:
        print(f"styleblend verify: {error}", file=sys.stderr)
        sys.exit(2)
    if given.json:
        print(json.dumps({"file": str(given.picture), **found.as_dict()}))
    else:
        first, *marks = found.lines()
        print(f"{shown(given.picture)}: {first}", *marks, sep="\n")
    sys.exit(0 if found.synthetic else 1)


def _compare(given: Namespace) -> None:
    """Print the table and write the picture."""
    from styleblend import provenance
    from styleblend.provenance import credentials
    from styleblend.reporting import comparison

    provenance.picture_format(given.output)
    cfg = load_params(given.params)
    track, signing = cfg.tracking, credentials.of(cfg.provenance)
    with comparison.contender(track, given.first) as first, comparison.contender(track, given.second) as second:
        if first.title == second.title:
            raise StyleBlendError(f"'{given.first}' and '{given.second}' are both {first.title}: name two versions")
        print(comparison.table(first, second))
        comparison.picture(first, second, given.output, signing)
    print(f"\n{given.output} shows both on the same faces; the alias champion chooses the one to be used")


def _reproduce(given: Namespace) -> None:
    """Print whether the version is the same again; exit code 1 if not."""
    from styleblend.experiments import reproduce

    # As an exception, the signal ends the child processes and removes the worktree.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    track = load_params(given.params).tracking
    project, version = given.params.parent, given.version
    outcome = reproduce.verify(track, version) if given.quick else reproduce.reproduce(project, track, version)
    print(outcome.text)
    if not outcome.same:
        sys.exit(1)


def _report(given: Namespace) -> None:
    """Print what the last run made, its main figures and where its files are."""
    from styleblend.reporting.summary import closing_lines

    print(closing_lines(Path("reports")))


if __name__ == "__main__":
    main()
