"""An export over an earlier one, and its report, killed at every point: no file is ever half."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dictionary_fixtures import dictionary

from vasae_jax.dictionary.dictionary import ARRAYS
from vasae_jax.dictionary.files import read_dictionary, write_dictionary
from vasae_jax.report.figures.alignment import alignment_figure
from vasae_jax.utils.errors import UserError

NAMES = ("dictionary.npz", "names.jsonl", "meta.json", "alignment.png")


@pytest.mark.slow
@pytest.mark.fault
def test_a_killed_export_leaves_whole_files_of_one_export_or_says_so(tmp_path):
    old, new, folders = dictionary(seed=0), dictionary(seed=5), {}
    for name, source in {"old": old, "new": new}.items():
        write_dictionary(tmp_path / name / "dictionary.npz", source)
        alignment_figure(source, tmp_path / name / "alignment.png")
        folders[name] = {file: (tmp_path / name / file).read_bytes() for file in NAMES}
    (tmp_path / "new.pickle").write_bytes(pickle.dumps(new))
    here, points = Path(__file__).parent, tmp_path / "points"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    asked = [here / "killed_exports.py", tmp_path / "new.pickle", tmp_path / "old", points]
    subprocess.run([sys.executable, *asked], env=environment, check=True)
    seen = set()
    for point in points.iterdir():
        for file in NAMES:
            assert (point / file).read_bytes() in (folders["old"][file], folders["new"][file])
        seen.add(which(point, old, new))
    assert len(list(points.iterdir())) > 10 and seen == {"old", "new", "refused"}


def which(point, old, new):
    """Whose dictionary lies there; a mixture must be refused."""
    try:
        found = read_dictionary(point / "dictionary.npz")
    except UserError as error:
        assert "expected the files of one export" in str(error)
        return "refused"
    for name, source in {"old": old, "new": new}.items():
        if all(np.array_equal(getattr(found, a), getattr(source, a)) for a in ARRAYS):
            return name
    raise AssertionError(f"{point} holds something else")
