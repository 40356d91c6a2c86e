"""system.parallel: results in order from several processes, and no process left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from styleblend.errors import StyleBlendError
from styleblend.system.parallel import spread


def square(number: int) -> int:
    time.sleep(0.02 * (number % 3))
    return number * number


def fail_at_three(number: int) -> int:
    if number == 3:
        raise StyleBlendError("three is wrong: give another number")
    return number


def die_at_three(number: int) -> int:
    if number == 3:
        os._exit(9)
    return number


def sleep_and_say(folder: str) -> None:
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(60)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_are_in_the_order_of_the_tasks(workers: int) -> None:
    """However long each task takes, its result has its place; no task gives no result."""
    assert list(spread(square, range(20), workers, "squares")) == [n * n for n in range(20)]
    assert list(spread(square, [], workers, "nothing")) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_users_mistake_passes_through(workers: int) -> None:
    """An error of a task is raised as it is."""
    with pytest.raises(StyleBlendError, match="three is wrong"):
        list(spread(fail_at_three, range(20), workers, "numbers"))


def touch(path: str) -> str:
    Path(path).touch()
    return path


def test_workers_wait_for_whoever_takes_the_results(tmp_path: Path) -> None:
    """Where nobody takes results, few tasks are begun, so that few results wait in memory; in the end all are done."""
    tasks = [str(tmp_path / f"{number:03d}") for number in range(400)]
    results = spread(touch, tasks, 2, "files")
    assert next(results) == tasks[0]
    begun = -1
    while begun != (begun := len(list(tmp_path.iterdir()))):
        time.sleep(0.5)
    assert begun <= 200
    assert [tasks[0], *results] == tasks


def test_a_killed_process_is_one_line() -> None:
    """A worker that the system ends is reported with what to do, not as a broken pool."""
    with pytest.raises(StyleBlendError, match="numbers: one of 2 processes was ended.*lower this stage's workers"):
        list(spread(die_at_three, range(20), 2, "numbers"))


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    """After SIGKILL of the stage its processes are gone within seconds, though their tasks were not done."""
    code = (
        "from test_parallel import sleep_and_say\n"
        "from styleblend.system.parallel import spread\n"
        f"if __name__ == '__main__': list(spread(sleep_and_say, [{str(tmp_path)!r}] * 4, 2, 'sleep'))\n"
    )
    script = tmp_path.parent / f"{tmp_path.name}_stage.py"
    script.write_text(code)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    parent = subprocess.Popen([sys.executable, str(script)], env=environment)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = [int(path.name) for path in tmp_path.iterdir()]
    parent.kill()
    parent.wait()
    assert len(workers) == 2
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in workers)


def alive(pid: int) -> bool:
    """Whether the process runs; one that ended and that nobody has collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
