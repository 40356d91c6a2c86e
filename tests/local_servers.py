"""What tests of servers on this machine share: a free port, whether somebody answers, and waiting with an end."""

from __future__ import annotations

import socket
import time
import urllib.request
from collections.abc import Callable
from typing import Any


def wait_for(condition: Callable[[], object], seconds: float = 240) -> Any:
    """What the condition gives once it is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False
