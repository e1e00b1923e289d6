"""Saves checkpoints in child processes that are killed (SIGKILL) in the third save.

Usage: python killed_saves.py DIRECTORY. The third save also deletes the first. Python's audit
events number the points at which files are made, renamed and removed; each child is killed
before one of them and leaves DIRECTORY/POINT, the last of them whole: points are passed in
several threads, so their number varies a little and is not counted beforehand.
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


def save_three(run: Path, last: int) -> None:
    """Save steps 1, 2 and 3 and be killed at point ``last``, if there are so many."""

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        ours = event in WITH_PATH and str(run) in str(arguments[0])
        if counting[0] and (ours or event in REMOVALS):
            if seen[0] >= last:
                os.kill(os.getpid(), signal.SIGKILL)
            seen[0] += 1

    sys.addaudithook(audit)
    with Checkpoints(run) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.steps()  # waits for the save before
            counting[0] = step == 3
            checkpoints.save(step, small_state(step))


def killed(run: Path, last: int) -> bool:
    """Whether :func:`save_three` was, in a process made before this one touched a device."""
    child = os.fork()
    if not child:
        save_three(run, last)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
    return status != 0


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    point = 0
    while killed(directory / str(point), point):
        point += EVERY
