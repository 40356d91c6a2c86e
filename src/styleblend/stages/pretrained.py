"""Stage pretrained: obtain every frozen network that a run needs, each checked by its SHA-256."""

from __future__ import annotations

import argparse
from pathlib import Path

from styleblend.config.pretrained import Pretrained
from styleblend.stages.entry import Config, run
from styleblend.weights.run_folder import collect


def pretrained(small: Path, starter: Path, out: Path, cfg: Pretrained) -> dict[str, dict[str, str]]:
    """Fill `out` with the networks and networks.json, which names them.

    Raises:
        StyleBlendError: a file is missing, not to be had, or not the right one.
    """
    networks = collect(small, out, cfg, starter=starter)
    for role, entry in networks.items():
        print(f"pretrained: {role}: {entry['file']} ({entry['licence']}, sha256 {entry['sha256'][:12]})")
    return networks


def main(given: argparse.Namespace, cfg: Config) -> None:
    """Stage pretrained: obtain every frozen network that a run needs, each checked by its SHA-256."""
    pretrained(given.small, given.starter, given.out, cfg.pretrained)


if __name__ == "__main__":
    run("pretrained", main, "small", "starter", "out")
