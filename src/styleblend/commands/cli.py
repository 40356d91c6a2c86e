"""The command `styleblend`: change settings, check them, see what came out, use the model."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import yaml

from styleblend.config.merge import merged
from styleblend.config.params import Config, load_params, parse_params
from styleblend.errors import StyleBlendError
from styleblend.experiments import presets
from styleblend.system.lock import only_one


def main(argv: Sequence[str] | None = None) -> None:
    """Run one subcommand. A user's mistake is one line and exit code 1; a wrong command line is 2."""
    given = _parser().parse_args(argv)
    try:
        given.run(given)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read along, as `head`, has seen enough; what is left to be written at exit goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except StyleBlendError as error:
        sys.exit(f"styleblend {given.command}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"styleblend {given.command}: stopped")


def _check(given: argparse.Namespace) -> None:
    """Check params.yaml and that the folders it names are there."""
    from styleblend.data.folders import present
    from styleblend.weights.weight_files import store_of

    cfg, project = load_params(given.params), given.params.parent
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


def _doctor(given: argparse.Namespace) -> None:
    """Say what is there and what lacks for a run; exit code 1 if it would fail."""
    # torch takes seconds to import.
    from styleblend.commands import doctor

    findings = doctor.examine(load_params(given.params), given.params.parent)
    print(doctor.text(findings))
    if any(finding.verdict == "FAIL" for finding in findings):
        sys.exit(1)


def _preset(given: argparse.Namespace) -> None:
    """Apply a preset to params.yaml and say what changed."""
    # A run that is at work reads params.yaml at each of its stages.
    with only_one(given.params.absolute().parent, "styleblend preset"):
        _apply(given)


def _apply(given: argparse.Namespace) -> None:
    lines = presets.apply(
        given.name,
        given.params,
        given.params.parent / "presets",
        folder=given.folder,
        mirror=given.mirror,
        licence=given.licence,
        terms=given.terms,
        ffhq=given.ffhq,
        celeba_hq=given.celeba_hq,
    )
    print("\n".join(lines) or f"{given.params} had these values already")
    if lines:
        print("now run: dvc repro (`styleblend preset none` goes back)")


def _describe(given: argparse.Namespace) -> None:
    """Print the networks of a preset, or of params.yaml, and what training them asks for."""
    cfg = load_params(given.params) if given.preset is None else _with_preset(given.params, given.preset)
    # torch takes seconds to import, and only this subcommand and `swap` need it.
    from styleblend.commands import describe

    print(describe.text(describe.describe(cfg, given.gpus, given.image_batch, given.depth)))


def _with_preset(params: Path, name: str) -> Config:
    """The settings that `styleblend preset NAME` would write; nothing is written."""
    folder = params.parent / "presets"
    presets.expect_one_of(name, presets.names(folder))
    load_params(params)
    values, overrides = (
        yaml.safe_load(file.read_text()) for file in (presets.base_of(params), folder / f"{name}.yaml")
    )
    return parse_params(merged(values, overrides), f"{params} with preset {name}", params.parent)


def _weights(given: argparse.Namespace) -> None:
    """Show, fetch and check pretrained networks."""
    from styleblend.commands import weights

    cfg, project = load_params(given.params).pretrained, given.params.parent
    if given.action == "list":
        print(weights.table(cfg, project))
    elif given.action == "fetch":
        weights.fetch(cfg, given.names, given.mirror, project)
    elif given.action == "where":
        print(weights.where(cfg, given.name, project))
    elif not weights.verify(cfg, project):
        sys.exit(1)


def _ablate(given: argparse.Namespace) -> None:
    """Train and evaluate the variants of the model that have no result yet, and write the table."""
    from styleblend.experiments import ablations

    print(f"ablate: {ablations.ablate(Path(), given.names)}")


def _swap(given: argparse.Namespace) -> None:
    """Swap the face of one picture into others and mark the results."""
    # torch and MLflow take seconds to import, and most subcommands do not need them.
    from styleblend.commands import swap

    asked = {field.name: getattr(given, field.name) for field in fields(swap.Request)}
    swap.run(load_params(given.params), swap.Request(**asked))


def _serve(given: argparse.Namespace) -> None:
    """Answer swaps over HTTP until stopped."""
    from styleblend.commands import serve

    cfg = load_params(given.params)
    host, port = given.host or cfg.serve.host, cfg.serve.port if given.port is None else given.port
    serve.run(cfg, given.model, given.detector_weights, host, port)


def _verify(given: argparse.Namespace) -> None:
    """Say which marks of a synthetic picture a file has. Exit code 0: at least one; 1: none; 2: unreadable."""
    # OpenCV and c2pa take a moment to import, and most subcommands do not need them.
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
        print(f"{given.picture}: {first}", *marks, sep="\n")
    sys.exit(0 if found.synthetic else 1)


def _compare(given: argparse.Namespace) -> None:
    """Print two versions side by side, and draw both on the same faces."""
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


def _reproduce(given: argparse.Namespace) -> None:
    """Make a version again, or check its files, and say whether it is the same; if not, the exit code is 1."""
    from styleblend.experiments import reproduce

    # What was started ends with this process, and no worktree stays behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    track = load_params(given.params).tracking
    if given.quick:
        outcome = reproduce.verify(track, given.version)
    else:
        outcome = reproduce.reproduce(given.params.parent, track, given.version)
    print(outcome.text)
    if not outcome.same:
        sys.exit(1)


def _report(given: argparse.Namespace) -> None:
    """Say in a few lines what the last run made, how good it is and where to look."""
    from styleblend.reporting.summary import closing_lines

    print(closing_lines(Path("reports")))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="styleblend", description="Face swapping by style blending.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--params", type=Path, default=Path("params.yaml"), help="settings (default: %(default)s)")

    add = commands.add_parser("check", parents=[common], help="check params.yaml and the folders that it names")
    add.set_defaults(run=_check)

    add = commands.add_parser(
        "doctor", parents=[common], help="what is there and what lacks for a run; exit code 1 if it would fail"
    )
    add.set_defaults(run=_doctor)

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
    add.set_defaults(run=_preset)

    add = commands.add_parser("weights", help="pretrained networks of the catalogue: list, fetch, verify, where")
    actions = add.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", parents=[common], help="all, with state, size, licence, and what this run uses")
    one = actions.add_parser("fetch", parents=[common], help="get those that the settings ask for, or the named")
    one.add_argument("names", nargs="*", metavar="NAME", help="of the catalogue")
    one.add_argument("--mirror", type=Path, metavar="DIR", help="folder with files or packs, in place of the settings'")
    actions.add_parser("verify", parents=[common], help="check all that are here; exit code 1: one is wrong")
    one = actions.add_parser("where", parents=[common], help="path of a network's file")
    one.add_argument("name", metavar="NAME")
    add.set_defaults(run=_weights)

    add = commands.add_parser(
        "ablate", help="train variants with one change each, and compare them; can be interrupted"
    )
    add.add_argument("names", nargs="*", metavar="VARIANT", help="of presets/ablations/variants.yaml; none: all")
    add.set_defaults(run=_ablate)

    add = commands.add_parser(
        "describe", parents=[common], help="sizes of the networks, and what training asks for, without training"
    )
    add.add_argument("--preset", metavar="NAME", help="of presets/NAME.yaml on top of params.yaml; changes no file")
    add.add_argument("--gpus", type=int, metavar="N", help="GPUs that share a step (default: workers of the stage)")
    add.add_argument(
        "--image-batch", type=int, metavar="N", help="pairs of pictures a GPU (default: batch_size / GPUs)"
    )
    add.add_argument("--depth", type=int, default=1, metavar="N", help="levels of modules to show (default: 1)")
    add.set_defaults(run=_describe)

    add = commands.add_parser("swap", parents=[common], help="put the source's identity into the target's face")
    add.add_argument("source", type=Path, help="picture whose face gives the identity")
    add.add_argument(
        "targets",
        type=Path,
        nargs="+",
        metavar="target",
        help="picture, pictures or folder that keep pose, expression, light and background",
    )
    add.add_argument("-o", "--output", type=Path, required=True, help="picture (.png, .jpg) or folder to write")
    add.add_argument("--model", help="folder, alias or number of a version (default: champion, else candidate)")
    add.add_argument("--detector-weights", type=Path, metavar="FILE", help="file of the face detector")
    add.add_argument("--source-face", type=int, metavar="NUMBER", help="which face, from the left, from 0")
    which = add.add_mutually_exclusive_group()
    which.add_argument("--target-face", type=int, metavar="NUMBER", help="which face, from the left, from 0")
    which.add_argument("--target-like", type=Path, metavar="PICTURE", help="the face of the person shown here")
    which.add_argument("--all-faces", action="store_true", help="every face of the target")
    which.add_argument("--aligned", action="store_true", help="all pictures are aligned faces: no detection")
    add.add_argument(
        "--background",
        default="white",
        metavar="COLOUR",
        help="colour behind transparent parts in a JPEG, which has no transparency (default: %(default)s)",
    )
    add.add_argument("--overwrite", action="store_true", help="in a folder: make pictures again that are there")
    add.set_defaults(run=_swap)

    add = commands.add_parser(
        "serve", parents=[common], help="swap over HTTP, with a page to try it; follows the alias champion"
    )
    add.add_argument("--model", help="folder, alias or number to stay with (default: follow the alias of `follow`)")
    add.add_argument("--detector-weights", type=Path, metavar="FILE", help="file of the face detector")
    add.add_argument("--host", help="address to listen at (default: serve.host of the settings)")
    add.add_argument("--port", type=int, help="0 takes a free one (default: serve.port of the settings)")
    add.set_defaults(run=_serve)

    add = commands.add_parser(
        "verify",
        help="which marks of a synthetic picture a file has; exit code 0: one at least, 1: none, 2: unreadable",
    )
    add.add_argument("picture", type=Path)
    add.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    add.add_argument("--trust", type=Path, metavar="FILE", help="PEM certificates whose signatures are trusted")
    add.set_defaults(run=_verify)
    add = commands.add_parser("compare", parents=[common], help="two versions side by side: figures and swaps")
    add.add_argument("first", nargs="?", default="candidate", help="alias or number (default: %(default)s)")
    add.add_argument("second", nargs="?", default="champion", help="alias or number (default: %(default)s)")
    picture = Path("reports/comparison.png")
    add.add_argument("-o", "--output", type=Path, default=picture, help="picture to write (default: %(default)s)")
    add.set_defaults(run=_compare)

    add = commands.add_parser(
        "reproduce", parents=[common], help="train a version again from what made it; exit code 1 if it is not the same"
    )
    add.add_argument("version", help="alias or number")
    add.add_argument("--quick", action="store_true", help="train nothing: check the version's model by its dvc.lock")
    add.set_defaults(run=_reproduce)

    add = commands.add_parser("report", parents=[common], help="what the last run made, in a few lines")
    add.set_defaults(run=_report)
    return parser


if __name__ == "__main__":
    main()
