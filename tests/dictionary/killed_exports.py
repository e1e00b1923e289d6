"""Writes a dictionary over another, and its report, in children killed (SIGKILL) at every point.

Usage: python killed_exports.py NEW OLD DIRECTORY, with a pickled dictionary, and the directory of
what is written over. Python's audit events number the points at which files are made, opened and
renamed; each child is killed before one of them and leaves DIRECTORY/POINT, the last of them whole.
"""

import os
import pickle
import shutil
import signal
import sys
from pathlib import Path

from vasae_jax.dictionary.files import write_dictionary
from vasae_jax.report.figures.alignment import alignment_figure

POINTS = ("open", "os.rename", "os.remove", "os.chmod", "tempfile.mkstemp")


def export(dictionary: object, folder: Path) -> None:
    """All that an export leaves."""
    write_dictionary(folder / "dictionary.npz", dictionary, overwrite=True)
    alignment_figure(dictionary, folder / "alignment.png", overwrite=True)


def killed(new: object, old: str, folder: Path, last: int) -> bool:
    """Whether a child was killed at point ``last`` of writing ``new`` over ``old``."""
    shutil.copytree(old, folder)
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
        return status != 0
    seen = [0]

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        if event in POINTS and str(folder) in str(arguments[0]):
            if seen[0] == last:
                os.kill(os.getpid(), signal.SIGKILL)
            seen[0] += 1

    sys.addaudithook(audit)
    export(new, folder)
    os._exit(0)


if __name__ == "__main__":
    dictionary = pickle.loads(Path(sys.argv[1]).read_bytes())
    point = 0
    while killed(dictionary, sys.argv[2], Path(sys.argv[3]) / str(point), point):
        point += 1
