"""Rows that no model gives, in a cache: they are counted and dropped, and too many end a run."""

import json
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
from cache_fixtures import make_cache
from test_stream import NO_MASK, SHUFFLE, make_stream

from vasae_jax.cache import Cache
from vasae_jax.cache.store import Store
from vasae_jax.config import Config, DataConfig, MeshConfig, RunConfig, SAEConfig
from vasae_jax.stream.source import Tally, median_norm, unusable
from vasae_jax.stream.statistics import statistics
from vasae_jax.stream.stream import Stream
from vasae_jax.training.checkpoint import load_params
from vasae_jax.training.loop import train
from vasae_jax.utils.errors import UserError

pytestmark = pytest.mark.fault
BAD = {41: np.nan, 105: np.inf, 333: -np.inf, 500: 0.0, 777: 2.5, 990: -0.0}
"""Rows of the cache, none at position 0, and what they are filled with."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_cache(tmp_path_factory.mktemp("whole"), rows=1000).url


def rewritten(whole, place, rows):
    """A copy of the cache in which ``rows`` are as they say, and have the norms to match."""
    url = str(shutil.copytree(whole, place))
    cache = Cache.open(url)
    acts, norms = (
        Store(url).open_array(f"train/{kind}/layers.3.resid_post") for kind in ("acts", "norms")
    )
    for row, values in rows.items():
        acts[row] = np.broadcast_to(values, 16).astype(ml_dtypes.bfloat16)
        norms[row] = np.linalg.norm(np.broadcast_to(values, 16).astype(np.float32))
    return cache


@pytest.fixture(scope="module")
def damaged(whole, tmp_path_factory):
    return rewritten(whole, tmp_path_factory.mktemp("damaged") / "cache", BAD)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float32])
def test_unusable_equals_the_slow_twin(dtype):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 6)).astype(dtype)
    for row, value in enumerate([np.nan, np.inf, -np.inf, 0, -0.0, 3, -3]):
        x[row], x[20 + row, 4], x[40 + row, :5] = value, value, value
    x[60] = [0, -0.0, 0, 0, -0.0, 0]
    x[61] = np.finfo(np.float32).max if dtype == np.float32 else 3e38
    wide = x.astype(np.float64)
    x[62, 1], x[63, 1], wide[62, 1], wide[63, 1] = 2.0**40, 2.0**39, 2.0**40, 2.0**39
    huge, constant = unusable(x)
    np.testing.assert_array_equal(huge, ~(np.abs(wide) < 2.0**40).all(axis=1))
    same = [len({value.tobytes() for value in row}) == 1 or not row.any() for row in x]
    np.testing.assert_array_equal(constant, same)
    assert not unusable(np.ones((3, 1), dtype))[1].any()  # one number is no less than a row has


def test_they_are_dropped_and_counted_and_the_rest_is_as_it_was(whole, damaged):
    streams = [make_stream(cache) for cache in (Cache.open(whole), damaged)]
    norms = damaged.norms(3, "train").read(0, 1000)
    assert not np.isfinite(norms).all()
    seen = 0
    for step in range(34):
        good, bad = (stream.batches(step)[0] for stream in streams)
        dropped = good.keep & ~bad.keep
        seen += dropped.sum()
        assert np.isfinite(bad.x.astype(np.float32)).all()
        np.testing.assert_array_equal(bad.x[bad.keep], good.x[bad.keep])
    assert seen >= len(BAD) - 2  # the median moves, and with it which rows are too long
    assert streams[0].stats().dropped == 0 and streams[1].stats().dropped >= len(BAD)


def test_a_row_whose_squares_overflow_is_dropped(whole, tmp_path):
    """It is masked for its norm, but infinity times a weight of 0 is NaN."""
    cache = rewritten(whole, tmp_path / "cache", {200: 1e20})
    stream = make_stream(cache)
    x = np.concatenate([stream.batches(step)[0].x for step in range(17)]).astype(np.float32)
    assert np.isfinite(np.square(x)).all()
    assert stream.stats().dropped == 1


def test_statistics_are_of_the_others(damaged):
    x = damaged.acts(3, "train").read(0, 1000).astype(np.float64)
    others = np.delete(x, list(BAD), axis=0)
    stats = statistics(damaged, 3, "train", NO_MASK)
    assert stats.rows == 1000 - len(BAD)
    np.testing.assert_allclose(stats.mean, others.mean(axis=0), rtol=1e-12, atol=1e-12)
    norms = damaged.norms(3, "train").read(0, 1000)
    norms = norms[np.isfinite(norms) & (norms > 0)]
    np.testing.assert_allclose(
        median_norm(damaged, 3, "train", NO_MASK), np.median(norms), rtol=1e-6
    )


def test_too_many_stop_the_stream(whole, tmp_path):
    cache = rewritten(whole, tmp_path / "cache", dict.fromkeys(range(300, 311), np.nan))
    stream = Stream(cache, [3], "train", NO_MASK, SHUFFLE)
    with pytest.raises(
        UserError, match=r"layers.3.resid_post has 11 rows that are not .* at most 1% of its"
    ):
        for step in range(20):
            stream.batches(step)[0]


def test_the_limit_grows_with_what_is_read():
    tally = Tally("rows", 1000)
    for _ in range(5):
        tally.add(1000, 10)
    assert tally.dropped == 50
    with pytest.raises(UserError, match=r"has 51 rows .*, among 5,000 read"):
        tally.add(0, 1)


def test_a_run_ends_as_if_they_were_masked(whole, damaged, tmp_path, capsys):
    # The same rows at position 0 are masked instead, and too short to move the median norm.
    masked = Cache.open(str(shutil.copytree(whole, tmp_path / "masked")))
    positions = Store(masked.url).open_array("train/positions")
    for row in BAD:
        positions[row] = 0
    runs = {}
    for name, cache in {"damaged": damaged, "masked": masked}.items():
        runs[name] = train(
            Config(
                data=DataConfig(cache=cache.url, layer=3, batch=32, readers=4, shuffle_chunks=2),
                sae=SAEConfig(method="plain", d_sae=32, k=3, decoder_init="random"),
                mesh=MeshConfig(data=1),
                run=RunConfig(out=str(tmp_path / f"run-{name}"), steps=40, log_every=20),
            )
        )
    said = capsys.readouterr().err
    (_, one), (_, other) = (load_params(out) for out in runs.values())
    jax.tree.map(np.testing.assert_array_equal, one, other)
    logs = [
        (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1]
        for out in runs.values()
    ]
    assert [json.loads(line)["dropped_rows"] > 0 for line in logs] == [True, False]
    assert "unusable rows dropped" in said
