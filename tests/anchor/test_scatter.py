"""The root of a layer's scatter, kept in few directions, and the detectors it measures."""

import jax.numpy as jnp
import numpy as np
import pytest

from vasae_jax.anchor.layer.scatter import RANK, RIDGE, measured, scatter_of, whitened


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
    found = measured(jnp.eye(d), scatter_of(S))
    np.testing.assert_allclose(found, root, atol=2e-5 * root.max())


@pytest.mark.parametrize("d", [8, RANK + 30])
def test_whitening_is_the_inverse_of_the_measure(d):
    scatter = scatter_of(covariance(d))
    rows = np.random.default_rng(1).normal(size=(20, d)).astype(np.float32)
    found = measured(jnp.asarray(whitened(rows, scatter)), scatter)
    np.testing.assert_allclose(found, rows, atol=1e-4)


def test_a_layer_without_scatter_measures_nothing_as_infinite():
    """Where every row is its token's mean, R is small and the same in all directions."""
    scatter = scatter_of(np.zeros((8, 8)))
    rows = whitened(np.eye(8, dtype=np.float32), scatter)
    assert np.isfinite(rows).all()
    np.testing.assert_allclose(rows / rows[0, 0], np.eye(8), atol=1e-6)
