"""How this process joins a Ray cluster that runs."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from styleblend.errors import StyleBlendError

_CONNECT_S = 10.0


def join(address: str, setting: str, env: Mapping[str, str]) -> None:
    """Join the cluster; `ray.shutdown` leaves it.

    Args:
        address: auto, HOST:PORT, or another that Ray knows. setting: names it in errors.
        env: variables of the processes that work for this one there.
    Raises:
        StyleBlendError: nobody answers there.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    try:
        _expect_listener(address)
        ray.init(address=address, log_to_driver=False, runtime_env={"env_vars": dict(env)})
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise StyleBlendError(
            f"{setting} is {address}, where no Ray cluster answers ({reason}): start or correct it"
        ) from error


def _expect_listener(address: str) -> None:
    """Ask whether somebody listens: Ray would wait for minutes, and then end the process.

    Raises:
        OSError: nobody does.
    """
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        return
    with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S):
        pass
