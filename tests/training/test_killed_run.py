"""A run that the system kills, as a user starts it, goes on to the same bits."""

import os
import signal
import subprocess
import sys
import time

import pytest
from cache_fixtures import make_cache
from test_train import assert_equal, config_for, final

from vasae_jax.config.overrides import flatten
from vasae_jax.training.loop import train

pytestmark = [pytest.mark.fault, pytest.mark.slow]


def start(config):
    settings = {name: value for name, value in flatten(config).items() if value not in ("", None)}
    given = [f"--{name}={value}" for name, value in settings.items() if value is not False]
    given = [setting.removesuffix("=True") for setting in given]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "vasae_jax.cli.main", "train", *given]
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)


def test_a_run_killed_in_a_step_resumes_bit_equal(tmp_path):
    cache = make_cache(tmp_path, rows=600, d=16, vocab=40, layers=(1, 3)).url
    # Long enough to be killed on the way, and not at a checkpoint.
    settings = {"steps": 60, "log_every": 1, "checkpoint_every": 7}
    config = config_for(cache, tmp_path / "killed", **settings)
    process, metrics = start(config), tmp_path / "killed" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text(encoding="utf-8").count("\n") >= 10):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    train(config)
    train(config_for(cache, tmp_path / "whole", **settings))
    assert_equal(final(tmp_path / "killed"), final(tmp_path / "whole"))
