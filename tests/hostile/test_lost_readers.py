"""Commands whose reader, terminal or log is gone do their work, and say their verdict by code."""

import os
import shutil
from pathlib import Path

import pytest
from hostile_commands import SETTINGS, vasae

from vasae_jax.training.digests import kept_steps

pytestmark = [pytest.mark.fault, pytest.mark.hostile, pytest.mark.slow]


@pytest.fixture
def no_reader():
    """Both streams led into a pipe whose other end is closed."""
    ours, theirs = os.pipe()
    os.close(ours)
    yield {"stdout": theirs, "stderr": theirs}
    os.close(theirs)


def test_a_run_without_a_reader_of_its_log_ends_with_its_checkpoint(cache, tmp_path, no_reader):
    words = ["train", f"--data.cache={cache}", f"--run.out={tmp_path / 'run'}", *SETTINGS]
    assert vasae(*words, environment={"PYTHONUNBUFFERED": "1"}, **no_reader).code == 0
    assert kept_steps(tmp_path / "run") == [4]


def test_damage_is_told_by_the_code_without_a_reader(cache, tmp_path, no_reader):
    damaged = Path(shutil.copytree(cache, tmp_path / "cache"))
    file = next((damaged / "train" / "acts").rglob("c/*/*"))
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    environment = {"PYTHONUNBUFFERED": "1"}
    words = ("cache", "verify", str(damaged))
    assert vasae(*words, environment=environment, **no_reader).code == 2
    assert vasae(*words, **no_reader).code == 2


def test_output_that_a_full_disk_took_is_an_error(cache):
    with open("/dev/full", "wb") as full:
        ended = vasae("cache", "info", cache, stdout=full)
    assert ended.code == 2 and ended.said.count("\n") == 1
