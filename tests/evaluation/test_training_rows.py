"""What fires on a sample of training rows, against a plain loop over the rows of a cache."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from cache_fixtures import make_cache
from watch_fixtures import plain_firings

from vasae_jax.config import Config, DataConfig, MeshConfig, SAEConfig
from vasae_jax.distributed.mesh import make_mesh
from vasae_jax.evaluation import training_rows
from vasae_jax.evaluation.training_rows import count_training_rows
from vasae_jax.stream.source import spread_chunks
from vasae_jax.training.run import Run

V, F, D, CHUNK, ROWS = 30, 12, 8, 64, 300


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of twelve features, of which three may fire; chunks end inside windows."""
    cache = make_cache(
        tmp_path_factory.mktemp("cache"), rows=ROWS, d=D, vocab=V, layers=(1,), chunk_rows=CHUNK
    )
    rng = np.random.default_rng(0)
    shapes = {"W_enc": (F, D), "b_enc": (F,), "W_dec": (F, D), "b_dec": (D,)}
    params = {
        name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()
    }
    data = DataConfig(layer=1, skip_positions=1, max_norm=0.0)
    config = replace(Config(), data=data, sae=SAEConfig(k=3, pre_bias=1.0, d_sae=F))
    return Run(config, 1, params, cache)


def check(run, counts, ranges):
    """Counts are those of the rows in ``ranges``; activations are float32 products: 1e-4."""
    chosen = {row for start, stop in ranges for row in range(start, stop)}
    firings = plain_firings(run.params, run.cache, run.config, "train")
    firings = [firing for firing in firings if firing[0] in chosen]
    positions = run.cache.column("positions", "train").read(0, ROWS)
    assert counts.rows == sum(positions[row] >= 1 for row in chosen)
    np.testing.assert_array_equal(
        counts.fired, np.bincount([firing[1] for firing in firings], minlength=F)
    )
    for relation, column in enumerate((3, 4)):
        fired, activation = np.zeros((2, F, V))
        for firing in firings:
            if firing[column] >= 0:
                fired[firing[1], firing[column]] += 1
                activation[firing[1], firing[column]] += firing[2]
        got = counts.relations[relation].of(np.tile(np.arange(V), (F, 1)))
        np.testing.assert_array_equal(got[0], fired)
        np.testing.assert_allclose(got[1], activation, rtol=1e-4, atol=1e-5)


def test_all_rows_are_counted_where_there_are_few(run):
    check(run, count_training_rows(run, run.cache), [(0, ROWS)])


def test_a_sample_is_evenly_spaced_chunks_and_sees_the_token_after_each(monkeypatch, run):
    monkeypatch.setattr(training_rows, "NAMING_ROWS", 3 * CHUNK)
    ranges = spread_chunks(ROWS, CHUNK, 3 * CHUNK)
    assert len(ranges) == 3
    check(run, count_training_rows(run, run.cache), ranges)


def test_devices_that_share_a_chunk_unevenly_count_the_same(run):
    mesh = make_mesh(MeshConfig(data=3, model=2))
    check(run, count_training_rows(replace(run, mesh=mesh), run.cache), [(0, ROWS)])
