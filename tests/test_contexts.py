"""Where features fire, against a plain loop."""

import jax.numpy as jnp
import numpy as np
import pytest
import reference
from cache_fixtures import make_cache

from vasae_jax.contexts import contexts, largest, next_tokens


def test_next_tokens_end_with_their_window():
    tokens, positions = np.array([5, 6, 7, 8, 9]), np.array([0, 1, 2, 0, 1])
    np.testing.assert_array_equal(next_tokens(tokens, positions), [6, 7, -1, 9, -1])


def test_shares_equal_a_plain_loop(tmp_path):
    cache = make_cache(tmp_path, rows=300, d=8, vocab=30, layers=(1,))
    rng = np.random.default_rng(0)
    shapes = {"W_enc": (12, 8), "b_enc": (12,), "W_dec": (12, 8), "b_dec": (8,)}
    wide = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    params = {name: jnp.asarray(value, jnp.float32) for name, value in wide.items()}
    asked = (3, 7)
    found = contexts(params, cache, 1, asked, k=3, pre_bias=1.0, skip_positions=1, max_norm=0.0)
    count = cache.rows("heldout")
    x = cache.acts(1, "heldout").read(0, count).astype(np.float64)
    tokens = cache.column("tokens", "heldout").read(0, count)
    positions = cache.column("positions", "heldout").read(0, count)
    _, z, _ = reference.forward(wide, x, 3, 1.0)
    at, after = np.zeros((2, 30)), np.zeros((2, 30))
    for i, feature in enumerate(asked):
        for row in range(count):
            if positions[row] >= 1:
                at[i, tokens[row]] += z[row, feature]
                if row + 1 < count and positions[row + 1] == positions[row] + 1:
                    after[i, tokens[row + 1]] += z[row, feature]
    np.testing.assert_allclose(found.at, at / at.sum(1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(found.following, after / after.sum(1, keepdims=True), atol=1e-5)


def test_largest_leaves_out_what_never_happens():
    assert largest(np.array([0.0, 0.25, 0.75, 0.0])) == [(2, 0.75), (1, pytest.approx(0.25))]
