"""The command `styleblend`: change settings, check them, see what came out, use the model.

Each subcommand is a module of this folder with `add_parser` and `run`, and a line in COMMANDS. The modules import
what takes long inside `run`.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace, _SubParsersAction
from collections.abc import Sequence
from pathlib import Path

import yaml

from styleblend.commands import ablate, check, compare, preset, report, reproduce, serve, swap, verify
from styleblend.config.merge import merged
from styleblend.config.params import Config, load_params, parse_params
from styleblend.errors import StyleBlendError
from styleblend.experiments import presets


def main(argv: Sequence[str] | None = None) -> None:
    """Run one subcommand. A StyleBlendError is one line and exit code 1; a wrong command line is exit code 2."""
    given = _parser().parse_args(argv)
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


def _add_doctor(commands: _SubParsersAction[ArgumentParser], common: ArgumentParser) -> None:
    add = commands.add_parser(
        "doctor", parents=[common], help="what is there and what lacks for a run; exit code 1 if it would fail"
    )
    add.set_defaults(run=_doctor)


def _doctor(given: Namespace) -> None:
    """Say what is there and what lacks for a run; exit code 1 if it would fail."""
    # torch takes seconds to import.
    from styleblend.commands import doctor, findings

    found = doctor.examine(load_params(given.params), given.params.parent)
    print(findings.text(found))
    if any(finding.verdict == "FAIL" for finding in found):
        sys.exit(1)


def _add_weights(commands: _SubParsersAction[ArgumentParser], common: ArgumentParser) -> None:
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


def _weights(given: Namespace) -> None:
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


def _add_describe(commands: _SubParsersAction[ArgumentParser], common: ArgumentParser) -> None:
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


def _describe(given: Namespace) -> None:
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


COMMANDS = (
    check.add_parser,
    _add_doctor,
    preset.add_parser,
    _add_weights,
    ablate.add_parser,
    _add_describe,
    swap.add_parser,
    serve.add_parser,
    verify.add_parser,
    compare.add_parser,
    reproduce.add_parser,
    report.add_parser,
)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="styleblend", description="Face swapping by style blending.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = ArgumentParser(add_help=False)
    common.add_argument("--params", type=Path, default=Path("params.yaml"), help="settings (default: %(default)s)")
    for add_parser in COMMANDS:
        add_parser(commands, common)
    return parser


if __name__ == "__main__":
    main()
