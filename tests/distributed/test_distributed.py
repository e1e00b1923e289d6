"""Two real processes of four devices each on loopback against one process of eight."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cache_fixtures import make_cache

from vasae_jax.config import Config, DataConfig, MeshConfig, OptimConfig, RunConfig, SAEConfig
from vasae_jax.config.overrides import flatten, to_dict
from vasae_jax.config.presets import embedding
from vasae_jax.distributed import hosts as distributed
from vasae_jax.distributed.hosts import Hosts
from vasae_jax.names.by_embedding import nearest_tokens
from vasae_jax.training.checkpoint import load_params
from vasae_jax.training.loop import train
from vasae_jax.utils.errors import UserError

STEPS = 12
HEARTBEAT = 10
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return make_cache(tmp_path_factory.mktemp("cache"), rows=600, d=16, vocab=40, layers=(1,))


def config_for(cache, out, mesh=(2, 4), readers=4, **run):
    settings = {"steps": STEPS, "log_every": 1, "checkpoint_every": 6, **run}
    return Config(
        data=DataConfig(cache=cache.url, layer=1, batch=32, readers=readers, shuffle_chunks=2),
        sae=SAEConfig(d_sae=32, k=3),
        anchor=replace(embedding().anchor, search_fraction=0.1),
        optim=OptimConfig(warmup=0.0, decay=0.0),  # a step is the same in a run of any length
        mesh=MeshConfig(*mesh),
        run=RunConfig(out=str(out), **settings),
    )


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(config, process, port, **waits):
    """One process of a pair, as a user starts it on one of two hosts."""
    settings = [f"--{name}={value}" for name, value in flatten(config).items() if value != ""]
    settings = [s for s in settings if not s.endswith(("=True", "=False"))]
    return start_command(settings, process, port, **waits)


def start_command(settings, process, port, **waits):
    """One process of a pair that trains what the arguments ``settings`` say."""
    timeouts = {"connect-timeout": 60, "heartbeat-timeout": HEARTBEAT, **waits}
    hosts = [f"--distributed=127.0.0.1:{port}", "--processes=2", f"--process-id={process}"]
    hosts += [f"--{name}={value}" for name, value in timeouts.items()]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "4", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "vasae_jax.cli.main", "train", *settings, *hosts]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def start_pair(config, other=None):
    port = free_port()
    return [start(config, 0, port), start(other or config, 1, port)]


def finish(processes, limit=60):
    """Exit codes and stderr of processes that must all end."""
    errors = []
    try:
        errors = [process.communicate(timeout=limit)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], errors


def losses(out):
    lines = [
        json.loads(line)
        for line in (Path(out) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    lines = [line for line in lines if "loss" in line]  # the last compares the anchors
    return [line["step"] for line in lines], np.array([line["loss"] for line in lines])


def assert_same_run(one, other, anchors):
    """Losses and parameters to 1e-5 of their size, and the same names."""
    steps, values = losses(one)
    other_steps, other_values = losses(other)
    assert steps == other_steps == list(range(1, STEPS + 1))
    # Rows lie on the devices in another order, so float32 sums differ in rounding.
    np.testing.assert_allclose(values, other_values, rtol=1e-5, atol=1e-6)
    (step, params), (other_step, other_params) = load_params(one), load_params(other)
    assert step == other_step == STEPS
    for name, value in params.items():
        np.testing.assert_allclose(value, other_params[name], rtol=1e-4, atol=1e-5, err_msg=name)
    names, other_names = (
        nearest_tokens(p["W_dec"], anchors, 3).ids for p in (params, other_params)
    )
    np.testing.assert_array_equal(names, other_names)


@pytest.fixture(scope="module")
def one_process(cache, tmp_path_factory):
    """The run of one process with eight devices."""
    return train(config_for(cache, tmp_path_factory.mktemp("one") / "run"))


@pytest.mark.slow
def test_two_processes_train_what_one_trains(cache, one_process, tmp_path):
    mesh = (1, 8)  # the features lie on all devices of both, which share the rows
    codes, said = finish(start_pair(config_for(cache, tmp_path / "run", mesh)))
    assert codes == [0, 0], said
    assert_same_run(one_process, tmp_path / "run", cache.embedding())
    assert "step 12/12" in said[0]
    assert "step 12/12" not in said[1]


@pytest.mark.slow
def test_two_processes_train_a_pack_one_run_each(cache, one_process, tmp_path):
    own = config_for(cache, tmp_path / "a")
    file = tmp_path / "pack.py"
    file.write_text(
        "from dataclasses import replace\n"
        "from vasae_jax.config.overrides import from_dict\n"
        f"a = from_dict({to_dict(own)!r}, 'here')\n"
        f"b = replace(a, anchor=replace(a.anchor, weight=0.9), "
        f"run=replace(a.run, out={str(tmp_path / 'b')!r}))\n"
        "config = [a, b]\n",
        encoding="utf-8",
    )
    port = free_port()
    axes = ["--mesh.member=2", "--mesh.data=1"]
    codes, said = finish([start_command([str(file), *axes], n, port) for n in (0, 1)])
    assert codes == [0, 0], said
    assert "a pack of 2 soft SAEs, 2 at a time" in said[0]
    assert_same_run(one_process, tmp_path / "a", cache.embedding())
    assert losses(tmp_path / "b")[0] == list(range(1, STEPS + 1))


@pytest.mark.slow
@pytest.mark.fault
def test_a_killed_process_ends_the_other_and_a_rerun_goes_on(cache, one_process, tmp_path):
    mesh = (2, 4)  # each process has rows of its own
    # So many steps that no run here comes to its end before it is stopped.
    long = config_for(cache, tmp_path / "run", mesh, steps=100_000)
    pair = start_pair(long)
    wait_for_step(tmp_path / "run", 7, pair)
    wait_for_checkpoint(tmp_path / "run", 6)
    pair[1].kill()
    killed = time.monotonic()
    codes, said = finish(pair)
    assert time.monotonic() - killed < 3 * HEARTBEAT
    assert codes[0] not in (0, None), said
    assert codes[1] == -signal.SIGKILL
    # Which of the two finds out first, this program or JAX's runtime, is a race.
    gone = rf"process 0 lost process 1 on {socket.gethostname()} |tasks are unhealthy.*:\s+1\n"
    assert re.search(gone, said[0]), said
    steps_before = losses(tmp_path / "run")[0]
    pair = start_pair(long)
    wait_for_step(tmp_path / "run", max(steps_before[-1] + 2, STEPS), pair)
    pair[1].send_signal(signal.SIGTERM)  # one host is preempted: both save and stop
    codes, said = finish(pair)
    assert codes == [128 + signal.SIGTERM] * 2, said
    assert "resuming" in said[0]
    assert "stopped by SIGTERM after step" in said[0]
    step, _ = load_params(tmp_path / "run")
    assert f"after step {step}," in said[0]
    steps, values = losses(tmp_path / "run")
    assert steps == list(range(1, step + 1))
    np.testing.assert_allclose(values[:STEPS], losses(one_process)[1], rtol=1e-5, atol=1e-6)


def wait_for_checkpoint(out, step):
    """Until a save in the background is whole."""
    for _ in range(200):
        if (out / "checkpoints" / str(step)).is_dir():
            return
        time.sleep(0.05)


def wait_for_step(out, step, processes):
    """Until metrics.jsonl has that step's line."""
    for _ in range(600):
        file = Path(out) / "metrics.jsonl"
        if file.exists() and file.read_text(encoding="utf-8").count("\n") >= step:
            return
        if any(process.poll() is not None for process in processes):
            break
        time.sleep(0.1)
    raise AssertionError(finish(processes, 1))


@pytest.mark.slow
def test_hosts_with_other_settings_are_refused_by_both(cache, tmp_path):
    config = config_for(cache, tmp_path / "run")
    other = replace(config, sae=replace(config.sae, k=4))
    codes, said = finish(start_pair(config, other))
    assert codes == [2, 2], said
    for text in said:
        assert "hosts disagree on sae.k: process 0 has 3 and process 1 has 4" in text
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_error_of_one_process_ends_both(cache, tmp_path):
    config = config_for(cache, tmp_path / "run")
    other = replace(config, data=replace(config.data, cache=str(tmp_path / "nothing")))
    codes, said = finish(start_pair(config, other))
    assert codes == [2, 2], said
    assert "process 1: " in said[0]
    assert all("is no activation cache" in text for text in said)


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_a_process_without_the_others_gives_up(cache, tmp_path, process):
    config = config_for(cache, tmp_path / "run")
    alone = start(config, process, free_port(), **{"connect-timeout": 1})
    codes, said = finish([alone])
    assert codes == [2]
    assert f"process {process} of 2 could not join the run at 127.0.0.1:" in said[0]


@pytest.mark.parametrize(
    ("hosts", "value"),
    [
        (Hosts("nowhere", 0, 2), "'nowhere'"),
        (Hosts("10.0.0.1:1234", 0, None), "--processes"),
        (Hosts("10.0.0.1:1234", 2, 2), "--process-id is 2"),
        (Hosts("auto", 0, 2), "--distributed=auto"),
        (Hosts("", 0, 2), "--process-id"),
    ],
)
def test_wrong_addresses_and_numbers_are_refused(hosts, value):
    with pytest.raises(UserError, match=value):
        hosts.check()


def test_the_first_process_works_before_the_others(monkeypatch):
    """Both parts are within raise_on_all, so an error in either is raised on all."""
    calls = []

    @contextlib.contextmanager
    def raise_on_all():
        calls.append("begins")
        try:
            yield
        finally:
            calls.append("ends")

    monkeypatch.setattr(distributed.jax, "process_count", lambda: 2)
    monkeypatch.setattr(distributed, "raise_on_all", raise_on_all)
    for first, expected in (
        (False, ["begins", "ends", "begins", "works", "ends"]),
        (True, ["begins", "works", "ends", "begins", "ends"]),
    ):
        calls.clear()
        monkeypatch.setattr(distributed, "is_first", lambda first=first: first)
        assert distributed.first_then_others(lambda: calls.append("works") or "made") == "made"
        assert calls == expected
