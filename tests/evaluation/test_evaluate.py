"""A pass over a split against a float64 twin, whatever the batch size and the masks."""

import json
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from vasae_jax.config import SAEConfig
from vasae_jax.evaluation.evaluate import evaluate_rows as evaluate
from vasae_jax.evaluation.metrics import NearestAnchors, TokenTable
from vasae_jax.utils.errors import UserError

D, F, K, ROWS = 6, 20, 4, 101


class Batch(NamedTuple):
    x: np.ndarray
    keep: np.ndarray
    docs: np.ndarray


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(ROWS, D)) * 2 + 5).astype(np.float32)
    keep = rng.random(ROWS) > 0.2
    x[~keep] *= 30
    params = {
        "W_enc": rng.normal(size=(F, D)).astype(np.float32),
        "b_enc": rng.normal(size=F).astype(np.float32) - 3,
        "W_dec": rng.normal(size=(F, D)).astype(np.float32),
        "b_dec": x[keep].mean(axis=0),
    }
    cosines = np.linspace(-0.2, 1, F)
    near = (
        NearestAnchors("input embeddings", np.arange(F) % 7, cosines, 50),
        NearestAnchors("raw", np.arange(F), cosines[::-1].copy(), 50),
    )
    return x, keep, params, near


def batches(x, keep, size):
    for start in range(0, len(x), size):
        rows = np.zeros((size, x.shape[1]), x.dtype)
        kept, docs = np.zeros(size, bool), np.full(size, -1, np.int32)
        part = slice(start, start + size)
        count = len(x[part])
        rows[:count], kept[:count], docs[:count] = x[part], keep[part], 0
        yield Batch(rows, kept, docs)


def run(case, size, pre_bias=1.0, x=None, keep=None):
    params = {name: jnp.asarray(value) for name, value in case[2].items()}
    x, keep = case[0] if x is None else x, case[1] if keep is None else keep
    return evaluate(params, SAEConfig(k=K, pre_bias=pre_bias), batches(x, keep, size), case[3])


def twin(x, params, pre_bias):
    """x_hat and the dense activations, float64."""
    x, p = x.astype(np.float64), {k: v.astype(np.float64) for k, v in params.items()}
    pre = np.maximum((x - pre_bias * p["b_dec"]) @ p["W_enc"].T + p["b_enc"], 0)
    z = np.where(np.argsort(np.argsort(-pre, axis=1, kind="stable"), axis=1) < K, pre, 0)
    return z @ p["W_dec"] + p["b_dec"], z


@pytest.mark.parametrize("pre_bias", [0.0, 0.5, 1.0])
def test_equals_the_float64_twin_on_both_populations(case, pre_bias):
    x, keep, params, near = case
    found = run(case, 16, pre_bias)
    for figures, rows in ((found.unmasked, x[keep]), (found.all_rows, x)):
        x_hat, z = twin(rows, params, pre_bias)
        rows = rows.astype(np.float64)
        fvu = np.sum((rows - x_hat) ** 2) / np.sum((rows - rows.mean(axis=0)) ** 2)
        mass = (z * np.linalg.norm(params["W_dec"], axis=1)).sum(axis=0)
        fires = (z > 0).any(axis=0)
        assert figures.rows == len(rows)
        assert figures.fvu == pytest.approx(fvu, rel=1e-5)
        assert figures.l0 == pytest.approx((z > 0).sum() / len(rows))
        assert figures.dead == np.sum(~fires)
        np.testing.assert_allclose(figures.fire_rate, (z > 0).mean(axis=0))
        for one, stated in zip(figures.alignment, near, strict=True):
            aligned = stated.cosines >= 0.8
            assert one.anchor == stated.anchor
            assert one.firing_aligned == pytest.approx(aligned[fires].mean())
            assert one.mass_aligned == pytest.approx(mass[aligned].sum() / mass.sum(), rel=1e-5)


@pytest.mark.parametrize("size", [1, 7, 101, 256])
def test_batch_size_changes_nothing(case, size):
    expected, found = run(case, 16), run(case, size)
    for a, b in ((expected.unmasked, found.unmasked), (expected.all_rows, found.all_rows)):
        assert (a.rows, a.l0, a.dead) == (b.rows, b.l0, b.dead)
        assert a.fvu == pytest.approx(b.fvu, rel=1e-6)
        assert a.alignment[0].mass_aligned == pytest.approx(b.alignment[0].mass_aligned, rel=1e-6)
        np.testing.assert_array_equal(a.fire_rate, b.fire_rate)


def test_bfloat16_rows_are_measured_as_they_are_stored(case):
    stored = case[0].astype(jnp.bfloat16)
    low, full = run(case, 16, x=stored), run(case, 16, x=stored.astype(np.float32))
    assert low.to_json() == full.to_json()


@pytest.mark.parametrize("size", [16, 101, 256])
def test_variance_explained_within_tokens_equals_the_float64_twin(case, size):
    """The table's means are not those of the rows that are measured."""
    x, keep, params, near = case
    rng = np.random.default_rng(1)
    token = rng.integers(0, 9, ROWS).astype(np.int32)
    rows, mean = (rng.normal(size=shape).astype(np.float32) for shape in ((9, D), D))
    found = evaluate(
        {name: jnp.asarray(value) for name, value in params.items()},
        SAEConfig(k=K, pre_bias=1.0),
        batches(x, keep, size),
        near,
        token_means=TokenTable(token, rows, mean),
    )
    for figures, chosen in ((found.unmasked, keep), (found.all_rows, np.ones(ROWS, bool))):
        x_hat, _ = twin(x[chosen], params, 1.0)
        wide = x[chosen].astype(np.float64)
        left = np.sum((wide - mean.astype(np.float64) - rows[token[chosen]]) ** 2)
        expected = 1 - np.sum((wide - x_hat) ** 2) / left
        assert figures.variance_explained_within_tokens == pytest.approx(expected, rel=1e-5)


def test_without_token_means_it_is_not_measured(case):
    found = run(case, 16)
    assert found.unmasked.variance_explained_within_tokens is None
    assert "within tokens" in found.table()


def test_json_and_table_name_both_populations(case):
    found = run(case, 16)
    value = json.loads(json.dumps(found.to_json()))
    assert value["unmasked"]["rows"] < value["all_rows"]["rows"] == ROWS
    for table in (found.table(), found.alignment_table()):
        assert "unmasked" in table and "all rows" in table
    assert "input embeddings" in found.alignment_table()


def test_a_split_that_is_masked_away_is_refused(case):
    with pytest.raises(UserError, match="no rows are left"):
        run(case, 16, keep=np.zeros(ROWS, bool))


def test_parameters_that_are_not_finite_are_refused(case):
    params = {**case[2], "b_dec": np.full(D, np.nan, np.float32)}
    with pytest.raises(UserError, match="not finite"):
        run((case[0], case[1], params, case[3]), 16)
