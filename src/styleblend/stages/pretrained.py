"""Stage pretrained: obtain every frozen network that a run needs, each checked by its SHA-256."""

from __future__ import annotations

import argparse
from pathlib import Path

from styleblend import config, weights
from styleblend.stages.entry import run


def pretrained(small: Path, out: Path, cfg: config.Pretrained) -> dict[str, dict[str, str]]:
    """Fill `out` with the networks and networks.json, which names them.

    Raises:
        StyleBlendError: a file is missing, not to be had, or not the right one.
    """
    networks = weights.collect(small, out, cfg)
    for role, entry in networks.items():
        print(f"pretrained: {role}: {entry['file']} ({entry['licence']}, sha256 {entry['sha256'][:12]})")
    return networks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--small", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    pretrained(given.small, given.out, config.load(given.params).pretrained)


if __name__ == "__main__":
    run("pretrained", main)
