"""Parts of a sweep as jobs of their own, one of which is killed and started again."""

import os
import signal
import subprocess
import sys

import pytest
from cache_fixtures import make_cache
from sweep_fixtures import figures, make_base, make_points, write_file
from sweep_killing import kill_half_done

from vasae_jax.sweep import Sweep
from vasae_jax.sweep.points import read_members
from vasae_jax.sweep.run import SweepOptions, run_sweep
from vasae_jax.sweep.status import run_status

STEPS = 60


def start(file, shard):
    command = [sys.executable, "-m", "vasae_jax.cli.main", "sweep", str(file), "--shard", shard]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.fault
def test_a_killed_shard_goes_on_and_the_table_is_that_of_an_undisturbed_run(tmp_path):
    cache = make_cache(tmp_path, rows=1500, heldout=300, layers=(1, 3)).url
    base = f"make_base({cache!r}, steps={STEPS}, log_every=1)"
    file = write_file(tmp_path / "grid.py", base, "make_points(layers=(1, 3))", tmp_path / "out")
    killed = start(file, "0/2")
    assert kill_half_done(tmp_path / "out", STEPS) == killed.pid
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    members = read_members(tmp_path / "out")
    assert not any(run_status(one).status == "done" for one in members)
    jobs = [start(file, f"{part}/2") for part in (0, 1)]
    said = [job.communicate()[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], said
    assert "resuming" in said[0]  # a run alone, or several as a pack
    assert "resuming" not in said[1]
    whole = Sweep(
        make_base(cache, steps=STEPS, log_every=1),
        make_points(layers=(1, 3)),
        str(tmp_path / "whole"),
    )
    run_sweep(whole, SweepOptions())
    expected = figures(read_members(tmp_path / "whole"))
    assert figures(members) == expected
    assert [row["status"] for row in expected] == ["done"] * 8
