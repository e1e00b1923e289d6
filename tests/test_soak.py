"""The soak, short: each of its faults once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "tools" / "soak.py"


@pytest.mark.slow
@pytest.mark.fault
def test_a_run_through_random_faults_ends_as_one_without(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    asked = [f"--out={tmp_path / 'soak'}", "--seed=0", "--faults=6", "--steps=600"]
    command = [sys.executable, SOAK, *asked]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith(": bit-equal")
    assert "600 steps through 6 faults" in done.stdout
