"""Ray's failures become one line of its own words; those of the code that it runs stay what they are."""

from __future__ import annotations

import pytest
from ray import exceptions
from ray.train import WorkerGroupError

from styleblend.errors import StyleBlendError, TransientError
from styleblend.system.ray_errors import told


def of_workers(*errors: Exception) -> WorkerGroupError:
    return WorkerGroupError("[Rank 0]\nTraceback (most recent call last):\n  ...", dict(enumerate(errors)))


@pytest.mark.parametrize(
    "error",
    [
        exceptions.ActorDiedError(),
        exceptions.LocalRayletDiedError(),
        of_workers(exceptions.NodeDiedError("node 7 was lost")),
        exceptions.GetTimeoutError("no answer"),
    ],
)
def test_what_was_lost_may_pass(error: Exception) -> None:
    """A lost process, machine or answer is worth another start, also where it is a worker's."""
    with pytest.raises(TransientError) as found, told("10.0.0.1:6379"):
        raise error
    assert "Ray's cluster 10.0.0.1:6379 failed with '" in str(found.value) and "\n" not in str(found.value)


def test_a_lack_of_memory_says_what_to_lower() -> None:
    """It comes again until somebody asks for less."""
    with pytest.raises(StyleBlendError, match="lower batch_size or workers") as found, told(None):
        raise of_workers(exceptions.OutOfMemoryError("Task was killed due to the node running low on memory.\nlong"))
    assert not isinstance(found.value, TransientError)
    assert "'Task was killed due to the node running low on memory.'" in str(found.value)


def test_an_address_that_is_none_is_one_line() -> None:
    """Ray raises Python's own kinds of error where it cannot be started: they are told as Ray's."""
    import ray

    said = "Ray's cluster nosuch://x failed with '.+': correct ray_address"
    with pytest.raises(StyleBlendError, match=said), told("nosuch://x"):
        ray.init(address="nosuch://x")


def test_a_line_of_our_own_in_a_worker_is_passed_on() -> None:
    """Ray wraps what workers raise: a database that stays locked is that line again, and may pass."""
    from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

    locked = TransientError("MLflow's database is locked")
    lost = exceptions.ActorDiedError()
    with pytest.raises(TransientError) as found, told(None):
        raise of_workers(lost, UserExceptionWithTraceback(locked, "Traceback ..."))
    assert found.value is locked


def test_mistakes_of_the_code_that_ran_keep_their_traceback() -> None:
    """A bug in a worker, also beside workers that were lost with it, in the driver, and a user's mistake."""
    from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

    for error in (
        KeyError("ours"),
        StyleBlendError("theirs"),
        of_workers(KeyError("ours")),
        of_workers(UserExceptionWithTraceback(KeyError("ours"), "Traceback ...")),
        of_workers(exceptions.ActorDiedError(), ZeroDivisionError("ours")),
    ):
        with pytest.raises(type(error)) as found, told(None):
            raise error
        assert found.value is error
