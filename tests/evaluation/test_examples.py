"""Examples of where features fire, against a plain loop over all firings."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import reference
from cache_fixtures import make_cache

from vasae_jax.config import Config, DataConfig, MeshConfig, SAEConfig
from vasae_jax.distributed.mesh import make_mesh
from vasae_jax.evaluation import evaluate as evaluating
from vasae_jax.evaluation.examples import gather as gathering
from vasae_jax.evaluation.examples.collect import (
    AFTER,
    BEFORE,
    EDGES,
    QUANTILES,
    SHOWN,
    TOP,
    Collector,
    sampling_score,
)
from vasae_jax.evaluation.examples.gather import gather
from vasae_jax.training.run import Run

F, K, D, V, ROWS = 24, 3, 8, 30, 640


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    cache = make_cache(
        tmp_path_factory.mktemp("cache"), rows=64, d=D, vocab=V, layers=(1,), heldout=ROWS
    )
    rng = np.random.default_rng(0)
    shapes = {"W_enc": (F, D), "b_enc": (F,), "W_dec": (F, D), "b_dec": (D,)}
    params = {
        name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()
    }
    params["b_enc"] = params["b_enc"].at[5].set(-1e6)  # never fires
    data = DataConfig(layer=1, skip_positions=1, max_norm=0.0)
    config = replace(Config(), data=data, sae=SAEConfig(k=K, pre_bias=1.0, d_sae=F))
    return Run(config, 1, params, cache)


@pytest.fixture(scope="module")
def dense(run):
    """Activations [rows, F] in float64, 0 on masked rows; rows, tokens and positions."""
    columns = (run.cache.column(name, "heldout").read(0, ROWS) for name in ("tokens", "positions"))
    tokens, positions = columns
    x = run.cache.acts(1, "heldout").read(0, ROWS).astype(np.float64)
    wide = {name: np.asarray(value, np.float64) for name, value in run.params.items()}
    x_hat, z, _ = reference.forward(wide, x, K, 1.0)
    keep = positions >= 1
    return z * keep[:, None], tokens, positions, x, x_hat, keep


@pytest.fixture(scope="module")
def found(run):
    return gather(run, "heldout")


def plain_context(dense, row, feature):
    """Tokens and activations around a row, of the same window."""
    z, tokens = dense[:2]
    words, shade = [], []
    for near in range(row - BEFORE, row + AFTER + 1):
        same = 0 <= near < ROWS and near // 20 == row // 20
        words.append(tokens[near] if same else -1)
        shade.append(z[near, feature] if same else 0)
    return words, shade


def test_the_strongest_firings_equal_a_sort_of_all(found, dense):
    z = dense[0]
    for feature in range(F):
        order = np.argsort(-z[:, feature], kind="stable")[:TOP]
        for place, row in enumerate(order):
            value = z[row, feature]
            assert found.examples.value[feature, place] == pytest.approx(value, rel=1e-4, abs=1e-5)
            if value > 0:
                words, shade = plain_context(dense, row, feature)
                np.testing.assert_array_equal(found.examples.tokens[feature, place], words)
                np.testing.assert_allclose(
                    found.examples.shade[feature, place], shade, rtol=2e-3, atol=1e-3
                )
    assert (found.examples.tokens[5] == -1).all() and not found.examples.value[5].any()


def test_the_histogram_and_positions_equal_a_count(found, dense):
    z, _, positions, x, x_hat, keep = dense
    for feature in range(F):
        mine = np.clip(z[:, feature][z[:, feature] > 0], EDGES[0], EDGES[-1])
        np.testing.assert_array_equal(found.histogram[feature], np.histogram(mine, EDGES)[0])
    mean = x[keep].mean(axis=0)
    fvu = found.positions.fvu()
    assert np.isnan(fvu[0])  # masked
    for position in range(1, 20):
        mine = positions == position
        error, spread = (np.square(x[mine] - other).sum() for other in (x_hat[mine], mean[None, :]))
        assert fvu[position] == pytest.approx(error / spread, rel=1e-4)


def test_examples_by_quantile_fall_and_span_the_sample(found, dense):
    z = dense[0]
    values = found.examples.value[:, TOP:]
    quantile = found.examples.quantile[:, TOP:]
    for feature in range(F):
        fires = np.sort(z[:, feature][z[:, feature] > 0])
        shown = values[feature][values[feature] > 0]
        assert len(shown) == min(QUANTILES, len(fires))
        assert (np.diff(shown) <= 0).all() and (np.diff(quantile[feature][: len(shown)]) < 0).all()
        for value in shown:
            assert np.abs(fires - value).min() < 1e-3 * value
    assert found.examples.value.shape == (F, SHOWN)


def test_a_sample_is_even_over_the_rows():
    """A feature that fires on each of 20,000 rows: a tenth of its sample from each tenth."""
    rows = np.arange(20_000)
    some = np.concatenate(
        [rows[np.argsort(sampling_score(np.full(20_000, f), rows))[:32]] for f in range(100)]
    )
    share = np.histogram(some, 10, (0, 20_000))[0] / len(some)
    assert np.abs(share - 0.1).max() < 0.03  # six standard deviations of a share of 3200


@pytest.mark.parametrize("sizes", [(1,) * 40, (7, 40, 3, 90), (140,)])
def test_batches_make_no_difference(sizes):
    rng = np.random.default_rng(1)
    count = sum(sizes)
    values = rng.random((count, K)).astype(np.float32)
    ids = np.stack([rng.permutation(F)[:K] for _ in range(count)]).astype(np.int32)
    keep = rng.random(count) > 0.2
    whole, parts = Collector(F, K), Collector(F, K)
    whole.add(keep, values, ids)
    start = 0
    for size in sizes:
        part = slice(start, start + size)
        parts.add(keep[part], values[part], ids[part])
        start += size
    for one in (whole, parts):
        one.finish()
    np.testing.assert_array_equal(parts.histogram, whole.histogram)
    for mine, theirs in ((parts.top, whole.top), (parts.sample, whole.sample)):
        for name, array in mine.fields.items():
            np.testing.assert_array_equal(array, theirs.fields[name], err_msg=name)


def test_a_mesh_gathers_what_one_device_does(run, found):
    mesh = make_mesh(MeshConfig(data=2, model=2))
    other = gather(replace(run, mesh=mesh), "heldout")
    np.testing.assert_array_equal(other.examples.tokens, found.examples.tokens)
    np.testing.assert_allclose(other.examples.value, found.examples.value, rtol=1e-5)


class Killed(Exception):
    pass


@pytest.mark.parametrize("first", [2, 256])
def test_where_thresholds_decide_all_that_fires_is_gathered(run, monkeypatch, first):
    """More features fire than there is room for at first; the held rows get as many as come."""
    monkeypatch.setattr(evaluating, "FIRST_MAX_ACTIVE", first)
    monkeypatch.setattr(gathering, "BATCH", 64)
    threshold = np.linspace(-1, 3, F).astype(np.float32)
    params = {**run.params, "threshold": jnp.asarray(threshold)}
    sae = replace(run.config.sae, activation="jumprelu", k=F)
    jumping = replace(run, params=params, config=replace(run.config, sae=sae))
    found = gather(jumping, "heldout")
    x = run.cache.acts(1, "heldout").read(0, ROWS).astype(np.float64)
    wide = {name: np.asarray(value, np.float64) for name, value in run.params.items()}
    pre = (x - wide["b_dec"]) @ wide["W_enc"].T + wide["b_enc"]
    keep = run.cache.column("positions", "heldout").read(0, ROWS) >= 1
    fires = (pre > np.maximum(threshold, 0)) & keep[:, None]
    assert fires.sum(axis=1).max() > 2 * K
    np.testing.assert_array_equal(found.histogram.sum(axis=1), fires.sum(axis=0))
    x_hat = np.where(fires, pre, 0) @ wide["W_dec"] + wide["b_dec"]
    error = np.square(x - x_hat).sum(axis=1)[keep].sum()
    assert found.positions.error.sum() == pytest.approx(error, rel=1e-4)


@pytest.mark.fault
def test_a_stopped_pass_goes_on_and_ends_equal(run, found, tmp_path, monkeypatch):
    monkeypatch.setattr(gathering, "BATCH", 64)
    monkeypatch.setattr(gathering, "SAVE_SECONDS", -1.0)
    saved, take = tmp_path / "saved.npz", gathering._Pass._take
    seen = []

    def until(self, batch, fired):
        if len(seen) == 4:
            raise Killed
        seen.append(self.done)
        take(self, batch, fired)

    monkeypatch.setattr(gathering._Pass, "_take", until)
    with pytest.raises(Killed):
        gather(run, "heldout", saved)
    assert saved.exists()
    monkeypatch.setattr(
        gathering._Pass, "_take", lambda *given: (seen.append(given[0].done), take(*given))
    )
    again = gather(run, "heldout", saved)
    assert seen[4] == 256 and not saved.exists()  # four batches of 64 were not read again
    np.testing.assert_array_equal(again.examples.tokens, found.examples.tokens)
    np.testing.assert_array_equal(again.examples.shade, found.examples.shade)
    np.testing.assert_array_equal(again.histogram, found.histogram)
    np.testing.assert_allclose(again.positions.fvu(), found.positions.fvu(), rtol=1e-6)


def test_progress_of_other_weights_or_a_damaged_file_is_ignored(run, found, tmp_path):
    saved = tmp_path / "saved.npz"
    other = replace(run, params={**run.params, "W_enc": run.params["W_enc"] * 2})
    one = gathering._Pass(other, "heldout")
    one.save(saved)
    for content in (saved.read_bytes(), b"no file of arrays"):
        saved.write_bytes(content)
        again = gather(run, "heldout", saved)
        np.testing.assert_array_equal(again.examples.tokens, found.examples.tokens)
