"""Settings of one run: written into params.yaml while DVC is at work, and gone afterwards, whatever ended the run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from styleblend.config.merge import merged
from styleblend.config.params import Config, load_params, parse_params
from styleblend.system.atomic import whole_file

_MARK = "# Settings of a run that is at work; at its end this file is again as it was.\n"


def checked(project: Path, overrides: Mapping[str, Any]) -> Config:
    """The project's settings with the overrides on top.

    Raises:
        ConfigError: an unknown key or a value out of range, in params.yaml or in the overrides.
    """
    cfg = load_params(project / "params.yaml")
    if not overrides:
        return cfg
    origin = f"{project / 'params.yaml'} with this run's overrides"
    return parse_params(_merged(project, overrides), origin, project)


def lasting(project: Path) -> Config:
    """The project's settings without those of a run that is at work.

    Raises:
        ConfigError: they are not in order.
    """
    kept = _kept(project)
    if not kept.exists():
        return load_params(project / "params.yaml")
    values = yaml.safe_load(json.loads(kept.read_text())["before"])
    return parse_params(values, str(project / "params.yaml"), project)


@contextmanager
def overridden(project: Path, overrides: Mapping[str, Any]) -> Iterator[None]:
    """Put the overrides into params.yaml while the block runs. What was there is kept on disk until it is back."""
    if not overrides:
        yield
        return
    with replaced(project, _merged(project, overrides)):
        yield


@contextmanager
def replaced(project: Path, values: Mapping[str, Any]) -> Iterator[None]:
    """Put these settings in the place of all that params.yaml holds, in the same way."""
    params = project / "params.yaml"
    during = _MARK + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110)
    with whole_file(_kept(project)) as partial:
        partial.write_text(json.dumps({"before": params.read_text(), "during": during}))
    try:
        _write(params, during)
        yield
    finally:
        restore(project)


def restore(project: Path) -> str | None:
    """Take the settings of a run out of params.yaml again, if there are any left.

    Returns:
        a line for the user where somebody edited params.yaml meanwhile: the edited file is kept beside it.
    """
    params, kept = project / "params.yaml", _kept(project)
    try:
        texts = json.loads(kept.read_text())
    except FileNotFoundError:
        return None
    line = None
    if params.exists() and params.read_text() not in texts.values():
        edited = params.with_name("params.yaml.edited")
        params.replace(edited)
        line = (
            f"params.yaml was edited while a run had settings of its own: it is as before, the edited one is {edited}"
        )
    _write(params, texts["before"])
    # Two may restore at once, a guard and its caller.
    kept.unlink(missing_ok=True)
    return line


def _merged(project: Path, overrides: Mapping[str, Any]) -> Any:
    return merged(yaml.safe_load((project / "params.yaml").read_text()), overrides)


def _kept(project: Path) -> Path:
    return project / ".state" / "retrain" / "params.json"


def _write(params: Path, text: str) -> None:
    with whole_file(params) as partial:
        partial.write_text(text)
