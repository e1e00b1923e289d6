"""An extraction that was killed and stopped ends as if neither had happened."""

import hashlib
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lm_fixtures import gpt2_config, random_model, save_model

from vasae_jax.extract.arguments import main

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "extract_flax.py"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    place = tmp_path_factory.mktemp("resume") / "model"
    return save_model(random_model(gpt2_config(n_embd=64, n_layer=3)), place)


def command(directory, out, *options):
    given = ["--model", str(directory), "--text", "pydoc-topics", "--out", str(out)]
    shape = ["--layers", "0,2", "--context-length", "64", "--max-rows", "30000"]
    return [*given, *shape, "--chunk-rows", "256", "--shard-rows", "1024", *options]


def start(directory, out):
    """The tool in a process of its own, which a signal may end."""
    return subprocess.Popen(
        [sys.executable, str(TOOL), *command(directory, out)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def run(directory, out, *options):
    """The tool in this process; its exit code."""
    tool = runpy.run_path(str(TOOL))
    return main("", tool["options"], tool["build"], command(directory, out, *options))


def durable(out):
    try:
        shards = json.loads((out / "journal.json").read_text(encoding="utf-8"))["shards"]
    except FileNotFoundError:
        return 0
    return len(shards.get("train/tokens", ()))


def signal_after(process, out, shards, number):
    """Send a signal once that many shards of training rows are durable."""
    limit = time.monotonic() + 120
    while durable(out) < shards and process.poll() is None:
        assert time.monotonic() < limit, "no shard was written"
        time.sleep(0.005)
    process.send_signal(number)
    error = process.communicate(timeout=60)[1]
    assert not (out / "manifest.json").exists(), "the signal came after the end"
    return error


def files(out):
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def killed(directory, tmp_path_factory):
    """What a killed extraction leaves."""
    out = tmp_path_factory.mktemp("killed") / "cache"
    process = start(directory, out)
    signal_after(process, out, 2, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    return out


@pytest.mark.slow
@pytest.mark.fault
def test_killed_stopped_and_finished_equals_uninterrupted(directory, killed, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(directory, whole) == 0

    shutil.copytree(killed, broken)
    kept = durable(broken)
    assert kept >= 2
    stopped = start(directory, broken)
    error = signal_after(stopped, broken, kept + 3, signal.SIGTERM)
    assert stopped.returncode == 128 + signal.SIGTERM
    assert "rows; run the same command to continue" in error.splitlines()[-1]
    assert durable(broken) >= kept + 3

    assert run(directory, broken) == 0
    assert files(broken) == files(whole)


@pytest.mark.slow
def test_an_unfinished_cache_is_not_continued_with_other_settings(
    directory, killed, tmp_path, capsys
):
    out = shutil.copytree(killed, tmp_path / "cache")
    before = files(out)
    del before["owner.json"]  # the killed writer's: whoever comes next owns the place, and goes
    assert run(directory, out, "--heldout-share", "0.3") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "unfinished cache with heldout_share 0.1; expected 0.3" in said
    assert files(out) == before
