"""An extraction that was killed and stopped ends as if neither had happened."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lm_fixtures import gpt2_config, random_model, save_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    place = tmp_path_factory.mktemp("resume") / "model"
    return save_model(random_model(gpt2_config(n_embd=64, n_layer=3)), place)


def start(directory, out, *options):
    command = [sys.executable, str(ROOT / "tools" / "extract_flax.py")]
    given = ["--model", str(directory), "--text", "pydoc-topics", "--out", str(out)]
    shape = ["--layers", "0,2", "--context-length", "64", "--max-rows", "60000"]
    shards = ["--chunk-rows", "256", "--shard-rows", "1024"]
    return subprocess.Popen(
        [*command, *given, *shape, *shards, *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def durable(out):
    try:
        shards = json.loads((out / "journal.json").read_text())["shards"]
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


def test_killed_stopped_and_finished_equals_uninterrupted(directory, tmp_path):
    whole = start(directory, tmp_path / "whole")
    assert whole.wait(timeout=120) == 0

    broken = tmp_path / "broken"
    killed = start(directory, broken)
    signal_after(killed, broken, 2, signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    kept = durable(broken)
    assert kept >= 2

    stopped = start(directory, broken)
    error = signal_after(stopped, broken, kept + 3, signal.SIGTERM)
    assert stopped.returncode == 128 + signal.SIGTERM
    assert "rows; run the same command to continue" in error.splitlines()[-1]
    assert durable(broken) >= kept + 3

    last = start(directory, broken)
    assert last.wait(timeout=120) == 0
    assert files(broken) == files(tmp_path / "whole")


def test_an_unfinished_cache_is_not_continued_with_other_settings(directory, tmp_path):
    out = tmp_path / "cache"
    signal_after(start(directory, out), out, 1, signal.SIGKILL)
    other = start(directory, out, "--heldout-share", "0.3")
    error = other.communicate(timeout=120)[1]
    assert other.returncode == 2
    assert "unfinished cache with heldout_share 0.1; expected 0.3" in error.splitlines()[-1]
    assert "Traceback" not in error
