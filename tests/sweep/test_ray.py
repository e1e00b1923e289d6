"""Packs as tasks of a local Ray, of which workers are killed. Needs Ray: pip install '.[ray]'."""

import sys
import threading
from dataclasses import replace

import pytest
from cache_fixtures import make_cache
from sweep_fixtures import figures, make_base, make_points
from sweep_killing import kill_half_done

from vasae_jax.config import Config, MeshConfig
from vasae_jax.sweep import Sweep
from vasae_jax.sweep.on_ray import open_ray
from vasae_jax.sweep.points import read_members
from vasae_jax.sweep.run import SweepOptions, run_sweep
from vasae_jax.utils.errors import UserError

ray = pytest.importorskip("ray")
STEPS = 60


@pytest.fixture(scope="module")
def cluster():
    """A local Ray of two workers."""
    environment = {"PYTHONPATH": ":".join(sys.path), "JAX_NUM_CPU_DEVICES": "1"}
    ray.init(address="local", num_cpus=2, runtime_env={"env_vars": environment})
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    made = make_cache(tmp_path_factory.mktemp("ray"), rows=1500, heldout=300, layers=(1, 3))
    return made.url


@pytest.mark.fault
def test_workers_killed_twice_leave_the_table_of_an_undisturbed_run(
    cluster, cache, tmp_path, capfd
):
    base = make_base(cache, steps=STEPS, log_every=1)
    points = make_points(layers=(1, 3))
    killed = []

    def kill_twice():
        for _ in range(2):
            killed.append(kill_half_done(tmp_path / "out", STEPS, killed))

    killer = threading.Thread(target=kill_twice)
    killer.start()
    run_sweep(Sweep(base, points, str(tmp_path / "out")), SweepOptions(on="ray"))
    killer.join()
    assert len(set(killed)) == 2
    said = capfd.readouterr()
    assert (said.out + said.err).count("resuming") >= 1
    run_sweep(Sweep(base, points, str(tmp_path / "whole")), SweepOptions())
    expected = figures(read_members(tmp_path / "whole"))
    assert figures(read_members(tmp_path / "out")) == expected
    assert [row["status"] for row in expected] == ["done"] * 8


def test_a_pack_over_two_hosts_is_trained_by_two_processes(cluster, cache, tmp_path, capfd):
    base = replace(make_base(cache), mesh=MeshConfig())  # all devices, which are two
    run_sweep(
        Sweep(base, make_points(ks=(3,)), str(tmp_path / "out")), SweepOptions(on="ray", hosts=2)
    )
    rows = figures(read_members(tmp_path / "out"))
    assert [row["status"] for row in rows] == ["done"] * 2
    said = capfd.readouterr()
    assert "mesh member=1 data=2 model=1" in said.out + said.err


def test_what_ray_cannot_give_is_refused(cluster):
    with pytest.raises(UserError, match="--on is 'spark'; expected ray"):
        open_ray("spark", Config(), 1)
    with pytest.raises(UserError, match="a pack takes 5 CPU of Ray, which has 2"):
        open_ray("ray", Config(), 5)
