"""Exact top-k against a stable sort."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from vasae_jax.sae.topk import top_k


@pytest.mark.parametrize(("width", "k"), [(5, 5), (64, 3), (1000, 8), (4097, 32), (5000, 1)])
@pytest.mark.parametrize("levels", [3, 10_000])
def test_top_k_equals_a_stable_sort(width, k, levels):
    rng = np.random.default_rng(width)
    x = rng.integers(0, levels, size=(17, width)).astype(np.float32)
    values, ids = jax.jit(top_k, static_argnums=1)(jnp.asarray(x), k)
    expected = reference.top_k(x, k)
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(values, np.take_along_axis(x, expected, 1))
