"""Saves checkpoints in child processes that are killed (SIGKILL) in the third save.

Usage: python killed_saves.py DIRECTORY. The third save also deletes the first. Python's audit
events number the points at which files are made, renamed and removed; each child is killed
before one of them and leaves DIRECTORY/POINT. The number of points is printed.
"""

import os
import signal
import sys
from pathlib import Path

import jax
from small_states import small_state

from vasae_jax.training.checkpoint import Checkpoints

jax.config.update("jax_platforms", "cpu")
WITH_PATH = ("open", "os.mkdir", "os.rename")
REMOVALS = ("os.remove", "os.rmdir")  # of a name in an open directory
EVERY = 12  # points between two kills
counting, seen = [False], [0]


def save_three(run: Path, last: float) -> int:
    """Save steps 1, 2 and 3 and be killed at point ``last``; returns the points passed."""

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        ours = event in WITH_PATH and str(run) in str(arguments[0])
        if counting[0] and (ours or event in REMOVALS):
            if seen[0] >= last:
                os.kill(os.getpid(), signal.SIGKILL)
            seen[0] += 1

    sys.addaudithook(audit)
    with Checkpoints(run) as checkpoints:
        for step in (1, 2, 3):
            counting[0] = step == 3
            checkpoints.save(step, small_state(step))
    return seen[0]


def in_child(run: Path, last: float) -> int:
    """:func:`save_three` in a process of its own, before this one has touched a device."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, str(save_three(run, last)).encode())
        os._exit(0)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
    with os.fdopen(reading) as pipe:
        return int(pipe.read() or -1)


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    points = in_child(directory / "whole", float("inf"))
    for point in range(0, points, EVERY):
        assert in_child(directory / str(point), point) == -1
    print(points)
