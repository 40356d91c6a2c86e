"""How every stage starts: parameters are checked at the door, and a user's mistake is one line, not a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable

from styleblend.errors import StyleBlendError


def run(name: str, main: Callable[[], None]) -> None:
    """Run a stage's main; a StyleBlendError ends the process with its one line and exit code 1."""
    try:
        main()
    except StyleBlendError as error:
        sys.exit(f"styleblend {name}: {error}")
