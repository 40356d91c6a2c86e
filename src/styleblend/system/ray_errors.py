"""What Ray itself raises, as one line with its own reason. Its errors are known by name: this does not import Ray."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from styleblend.errors import StyleBlendError, TransientError, reason_of

_PASSES = {
    "ActorDiedError", "ActorUnavailableError", "ConnectionError", "GetTimeoutError", "LocalRayletDiedError",
    "NodeDiedError", "ObjectLostError", "OwnerDiedError", "PreemptionError", "RayActorError", "RpcError",
    "TimeoutError", "WorkerCrashedError", "WorkerGroupStartupTimeoutError", "WorkerHealthCheckFailedError",
    "WorkerHealthCheckTimeoutError",
}  # fmt: skip
"""A machine, a process or a network that was lost: a stage goes on where it was once it is started again."""
_REMEDIES = {
    "OutOfMemoryError": "lower batch_size or workers of the stage",
    "OutOfDiskError": "make room on the disk",
    "ObjectStoreFullError": "make room in memory, or lower workers of the stage",
}
_OTHERS = {"RayTaskError", "UserCodeException", "UserExceptionWithTraceback"}
"""Errors of what ran on Ray, wrapped by it: their traceback is what helps."""


@contextmanager
def told(address: str | None) -> Iterator[None]:
    """For a block that starts Ray, or joins a cluster, and works on it.

    Args:
        address: of the cluster; None is one of this machine's own.
    Raises:
        TransientError: a machine, a process or the cluster was lost, or does not answer.
        StyleBlendError: Ray failed otherwise, or a worker did with a line of its own. Other errors of the code that ran
            on it are passed on as they are.
    """
    try:
        yield
    except StyleBlendError:
        raise
    except Exception as error:
        cause = _cause(error)
        if cause is None:
            raise
        raise _line(cause, address) from error


def _cause(error: Exception) -> BaseException | None:
    """The error of Ray, or of ours that is one line already, in what Ray raised; None where there is none."""
    inner = [*getattr(error, "worker_failures", {}).values(), *_given(getattr(error, "controller_failure", None))]
    if inner:
        causes = [_cause(each) for each in inner]
        # One worker's own mistake ends the others, whose loss would hide it.
        if None in causes:
            return None
        return next((each for each in causes if isinstance(each, StyleBlendError)), causes[0])
    own_line = getattr(error, "_base_exc", error)
    if isinstance(own_line, StyleBlendError):
        return own_line
    if _names(error) & _OTHERS:
        return None
    own = any(kind.__module__.partition(".")[0] == "ray" for kind in type(error).__mro__)
    return error if own or _raised_by_ray(error) else None


def _given(error: Exception | None) -> list[Exception]:
    return [] if error is None else [error]


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _raised_by_ray(error: BaseException) -> bool:
    """Whether the line that raised it is one of Ray's: it raises Python's own kinds, too, where it cannot start."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and "/site-packages/ray/" in frames[-1].filename


def _line(cause: BaseException, address: str | None) -> StyleBlendError:
    if isinstance(cause, StyleBlendError):
        return cause
    where = "Ray on this machine" if address is None else f"Ray's cluster {address}"
    said, names = f"{where} failed with '{reason_of(cause)}'", _names(cause)
    for name, remedy in _REMEDIES.items():
        if name in names:
            return StyleBlendError(f"{said}: {remedy}")
    if names & _PASSES:
        return TransientError(f"{said}: see that it runs, and start again, which goes on from what was done")
    return StyleBlendError(f"{said}: correct ray_address, or what it names")
