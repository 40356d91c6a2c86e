"""Time and memory of a whole command with everything it starts.

    python benchmarks/whole_run.py make demo

Memory is the proportional set size (PSS, Linux) summed over all processes of the command, so that shared pages count
once; it is looked at every second, and the largest sum is the peak.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import psutil

SECONDS_BETWEEN_LOOKS = 1.0


def memory_bytes(root: psutil.Process) -> int:
    """Summed PSS of a process and its descendants; a process that ends meanwhile counts nothing."""
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def main() -> None:
    """Run the command, pass its output on, then print one JSON object; exits as the command did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    command = parser.parse_args().command
    if not command:
        parser.error("name a command, e.g. make demo")
    started, peak = time.monotonic(), 0
    with subprocess.Popen(command) as running:
        watched = psutil.Process(running.pid)
        while running.poll() is None:
            try:
                peak = max(peak, memory_bytes(watched))
            except psutil.NoSuchProcess:
                break
            time.sleep(SECONDS_BETWEEN_LOOKS)
    figures = {
        "command": command,
        "exit": running.returncode,
        "seconds": round(time.monotonic() - started, 1),
        "peak_gib": round(peak / 2**30, 2),
    }
    print(json.dumps(figures))
    sys.exit(running.returncode)


if __name__ == "__main__":
    main()
