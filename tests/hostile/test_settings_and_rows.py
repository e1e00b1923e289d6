"""Numbers without bounds in settings and rows, and clocks that are wrong."""

import os
from dataclasses import replace

import numpy as np
import pytest
from cache_fixtures import append, make_plan, make_rows, make_vocabulary
from hostile_commands import SETTINGS

from vasae_jax.cache import CacheWriter, verify
from vasae_jax.cache.writer import row_norms
from vasae_jax.cli.main import main
from vasae_jax.config import Config, RunConfig
from vasae_jax.sweep.points import Member
from vasae_jax.sweep.status import RUNNING, WAITING, run_status
from vasae_jax.utils.lock import OWNER, FolderLock, is_held

pytestmark = [pytest.mark.fault, pytest.mark.hostile]

REALS = (
    *("optim.lr", "optim.encoder-lr-ratio", "optim.b1", "optim.b2", "optim.warmup", "optim.decay"),
    *("optim.resample-after", "sae.pre-bias", "sae.b-enc-init", "anchor.weight", "anchor.start"),
    *("anchor.warmup", "anchor.init-fraction", "anchor.target-cosine", "anchor.search-fraction"),
    "data.max-norm",
)
COUNTS = (
    *("run.steps", "run.seed", "run.keep", "run.log-every", "run.checkpoint-every", "data.batch"),
    *("run.keep-every", "data.seed", "data.readers", "data.shuffle-chunks", "data.skip-positions"),
    *("data.layer", "sae.d-sae", "sae.k", "mesh.data", "mesh.model", "mesh.member"),
)


def refused(capsys, words, named):
    """Whether a command is refused in a last line that has ``named``."""
    capsys.readouterr()
    assert main(words) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("vasae: ") and named in said.replace("-", "_")


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e39"])
@pytest.mark.parametrize("name", REALS)
def test_a_setting_that_is_not_finite_is_refused_by_name(cache, tmp_path, capsys, name, value):
    words = ["train", f"--data.cache={cache}", f"--run.out={tmp_path / 'run'}", *SETTINGS]
    refused(capsys, [*words, f"--{name}={value}"], name.replace("-", "_"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [2**31 + 2**33, 2**64, 10**40])
@pytest.mark.parametrize("name", COUNTS)
def test_a_number_beyond_the_types_of_a_step_is_refused(cache, tmp_path, capsys, name, value):
    words = ["train", f"--data.cache={cache}", f"--run.out={tmp_path / 'run'}", *SETTINGS]
    refused(capsys, [*words, f"--{name}={value}"], str(value)[:12])
    assert not (tmp_path / "run").exists()


def scaled(folder, scale, only=None):
    """A float32 cache whose rows, or the one ``only``, have numbers of about ``scale``."""
    plan = make_plan(dtype="float32", layers=(1,))
    with CacheWriter(str(folder), plan, make_vocabulary(plan)) as writer:
        for split, count, first in (("train", 300, 0), ("heldout", 100, 1000)):
            made = make_rows(plan, count, first_doc=first)
            x = made.acts[1].astype(np.float32)
            rows = slice(None) if only is None else only
            x[rows] = np.sign(x[rows]) * np.float32(scale)
            x[rows, 0] /= 2  # not one number throughout
            append(writer, split, replace(made, acts={1: x}))
        writer.finish()
    return str(folder)


@pytest.mark.parametrize("scale", [1e18, 3e38])
def test_large_rows_are_no_damage_and_the_remedy_is_to_scale_them(tmp_path, capsys, scale):
    cache = scaled(tmp_path / "cache", scale)
    assert verify(cache) == []
    words = ["train", f"--data.cache={cache}", f"--run.out={tmp_path / 'run'}", *SETTINGS]
    refused(capsys, words, "multiply the rows by a constant")
    refused(capsys, ["anchors", cache], "multiply the rows by a constant")


@pytest.mark.slow
def test_one_large_row_is_left_out_everywhere(tmp_path):
    cache, run = scaled(tmp_path / "cache", 1e30, only=7), str(tmp_path / "run")
    assert verify(cache) == []
    words = ["train", f"--data.cache={cache}", f"--run.out={run}", "--data.max-norm=0", *SETTINGS]
    assert main(words) == 0
    assert main(["eval", run]) == 0
    assert main(["name", run]) == 0


def test_the_norm_of_a_finite_row_is_finite():
    rows = np.array([[3e38, 3e38], [np.inf, 0], [np.nan, 0], [3, 4]], np.float32)
    largest = np.finfo(np.float32).max
    np.testing.assert_array_equal(row_norms(rows), np.float32([largest, np.inf, np.nan, 5]))


@pytest.mark.parametrize("days", [-2, 2])
def test_a_wrong_clock_makes_no_run_live_or_dead(tmp_path, days):
    member = Member("0123456789", "k=32", Config(run=RunConfig(out=str(tmp_path))))
    with FolderLock(tmp_path):
        file = tmp_path / OWNER
        then = file.stat().st_mtime + days * 86400
        os.utime(file, (then, then))
        assert is_held(tmp_path)
        assert run_status(member).status == RUNNING
        left = file.read_bytes()
    file.write_bytes(left)
    os.utime(file, (then, then))
    assert not is_held(tmp_path)
    assert run_status(member).status == WAITING
