"""A sweep whose packs take two processes: they train it, and one process measures it."""

import os
import socket
import subprocess
import sys

import pytest
from cache_fixtures import make_cache
from sweep_fixtures import write_file

from vasae_jax.cli.main import main
from vasae_jax.sweep.points import read_members
from vasae_jax.sweep.status import run_status


def start(file, process, port):
    hosts = [f"--distributed=127.0.0.1:{port}", "--processes=2", f"--process-id={process}"]
    command = [sys.executable, "-m", "vasae_jax.cli.main", "sweep", str(file), *hosts]
    given = ["--mesh.member=2", "--mesh.model=2", "--connect-timeout=60"]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command + given, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_train_a_sweep_that_one_measures(tmp_path, capsys):
    cache = make_cache(tmp_path, rows=1500, heldout=300, layers=(1,)).url
    base, points = f"make_base({cache!r})", "make_points(ks=(3,))"
    file = write_file(tmp_path / "grid.py", base, points, tmp_path / "out")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    jobs = [start(file, process, port) for process in range(2)]
    said = [job.communicate(timeout=600)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], said
    assert "mesh member=2 data=1 model=2" in said[0]
    members = read_members(tmp_path / "out")
    assert [run_status(one).status for one in members] == ["trained", "trained"]
    assert main(["sweep", str(file)]) == 0
    assert [run_status(one).status for one in members] == ["done", "done"]
    assert main(["sweep", str(file), "--on=ray", "--distributed=auto"]) == 2
    assert "--on and --distributed were both given" in capsys.readouterr().err
