"""The root of a layer's scatter, kept in few directions, and the pull that it measures."""

import jax.numpy as jnp
import numpy as np
import pytest
from layer_root import root_of

from vasae_jax.anchor.loss import NearestDetectors, whitened_alignment_and_grad
from vasae_jax.anchor.whitening import RANK, RIDGE, whiten, whitened_anchors, within_cov_of


def covariance(d, seed=0):
    """Symmetric, with variances from 1 to about 1e3 in directions of no axis."""
    rng = np.random.default_rng(seed)
    vectors = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return (vectors * np.geomspace(1, 1e3, d)) @ vectors.T


@pytest.mark.parametrize("d", [8, RANK, RANK + 30])
def test_the_largest_directions_are_kept_and_the_rest_have_their_mean_variance(d):
    S = covariance(d)
    values, vectors = np.linalg.eigh(S)
    values += RIDGE * np.diag(S).mean()
    rest = d - min(RANK, d - 1)
    values[:rest] = values[:rest].mean()
    root = (vectors * np.sqrt(values)) @ vectors.T
    found = root_of(within_cov_of(S))
    np.testing.assert_allclose(found, root, atol=2e-5 * root.max())


@pytest.mark.parametrize("d", [8, RANK + 30])
def test_whitening_is_the_inverse_of_the_measure(d):
    within_cov = within_cov_of(covariance(d))
    rows = np.random.default_rng(1).normal(size=(20, d)).astype(np.float32)
    found = whiten(rows, within_cov) @ root_of(within_cov)
    np.testing.assert_allclose(found, rows, atol=1e-4)


def test_a_layer_without_scatter_measures_nothing_as_infinite():
    """Where every row is its token's mean, R is small and the same in all directions."""
    within_cov = within_cov_of(np.zeros((8, 8)))
    rows = whiten(np.eye(8, dtype=np.float32), within_cov)
    assert np.isfinite(rows).all()
    np.testing.assert_allclose(rows / rows[0, 0], np.eye(8), atol=1e-6)


def plain_pull(W, share, rows, within_cov, target_cosine):
    """The sum and its gradient with both sides taken through R, row by row in float64."""
    root, total, pull = root_of(within_cov), 0.0, np.zeros(W.shape)
    for i, (w, c) in enumerate(zip(W.astype(np.float64), rows.astype(np.float64), strict=True)):
        u, v = w @ root, c @ root
        v /= np.linalg.norm(v)
        size = np.linalg.norm(u)
        cosine = u @ v / size if size else 0.0
        total += share[i] * min(cosine, target_cosine)
        if size and cosine < target_cosine:
            pull[i] = share[i] * (root @ ((v - cosine * u / size) / size))
    return total, pull


@pytest.mark.parametrize("target_cosine", [1.0, 0.3])
def test_the_pull_is_by_the_cosine_of_rows_taken_through_the_root(target_cosine):
    """Relative 1e-5 of the largest: variances reach a thousand."""
    d, count = RANK + 30, 50
    rng = np.random.default_rng(2)
    within_cov = within_cov_of(covariance(d))
    rows = rng.normal(size=(count, d)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    near = np.linspace(0, 3, count)[:, None]
    W = (rng.normal(size=(count, d)) / np.sqrt(d) + near * rows).astype(np.float32)
    W[7] = 0  # a row of no length is pulled nowhere
    share = rng.random(count).astype(np.float32)
    order = rng.permutation(count).astype(np.int32)  # anchors lie elsewhere than features
    others = np.zeros_like(rows)
    others[order] = rows
    nearest = NearestDetectors(jnp.asarray(rows), jnp.asarray(order))
    given = (jnp.asarray(W), jnp.asarray(share), nearest, whitened_anchors(others, within_cov))
    found, pull = whitened_alignment_and_grad(*given, target_cosine=target_cosine)
    total, expected = plain_pull(W, share, rows, within_cov, target_cosine)
    assert float(found) == pytest.approx(total, rel=1e-5)
    np.testing.assert_allclose(pull, expected, atol=1e-5 * np.abs(expected).max())
    still = (expected == 0).all(axis=1)
    assert still[7] and (still.sum() > 5) == (target_cosine < 1)
