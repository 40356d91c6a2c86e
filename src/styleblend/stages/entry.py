"""How every stage starts: parameters are checked at the door, and a user's mistake is one line, not a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from styleblend.errors import StyleBlendError, TransientError


def run(name: str, main: Callable[[], None]) -> None:
    """Run a stage's main; a StyleBlendError ends the process with its one line and an exit code.

    The code is 1, or 75 (EX_TEMPFAIL of sysexits.h) where the same may succeed later.
    """
    try:
        main()
    except TransientError as error:
        print(f"styleblend {name}: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL)
    except StyleBlendError as error:
        sys.exit(f"styleblend {name}: {error}")
