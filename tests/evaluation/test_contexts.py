"""Where features fire, against a plain loop, and whether names hold, by hand."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import reference
from cache_fixtures import make_cache

from vasae_jax.config import Config, DataConfig, SAEConfig
from vasae_jax.evaluation.contexts import (
    Firings,
    contexts,
    firings,
    largest,
    name_hold,
)


def test_shares_equal_a_plain_loop(tmp_path):
    cache = make_cache(tmp_path, rows=300, d=8, vocab=30, layers=(1,))
    rng = np.random.default_rng(0)
    shapes = {"W_enc": (12, 8), "b_enc": (12,), "W_dec": (12, 8), "b_dec": (8,)}
    wide = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    params = {name: jnp.asarray(value, jnp.float32) for name, value in wide.items()}
    data = DataConfig(layer=1, skip_positions=1, max_norm=0.0)
    config = replace(Config(), data=data, sae=SAEConfig(k=3, pre_bias=1.0))
    asked = (3, 7)
    found = contexts(firings(params, cache, config), asked, 30)
    count = cache.rows("heldout")
    x = cache.acts(1, "heldout").read(0, count).astype(np.float64)
    tokens = cache.column("tokens", "heldout").read(0, count)
    positions = cache.column("positions", "heldout").read(0, count)
    _, z, _ = reference.forward(wide, x, 3, 1.0)
    at, before = np.zeros((2, 30)), np.zeros((2, 30))
    for i, feature in enumerate(asked):
        for row in range(count):
            if positions[row] >= 1:
                at[i, tokens[row]] += z[row, feature]
                if row + 1 < count and positions[row + 1] == positions[row] + 1:
                    before[i, tokens[row + 1]] += z[row, feature]
    np.testing.assert_allclose(found.at, at / at.sum(1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(found.before, before / before.sum(1, keepdims=True), atol=1e-5)


def test_name_hold_by_hand():
    # Feature 0 is named 5 or 6, feature 1 is named 7 or 8, feature 2 never fires.
    names = np.array([[5, 6], [7, 8], [1, 2]])
    found = Firings(
        feature=np.array([0, 0, 0, 1, 1]),
        activation=np.array([1.0, 2.0, 5.0, 3.0, 1.0], np.float32),
        token=np.array([5, 7, 6, 1, 8]),
        following=np.array([1, 6, -1, 7, 2]),
        row=np.array([0, 1, 1, 2, 3]),
    )
    hold = name_hold(found, names)
    np.testing.assert_allclose(hold.at, [6 / 8, 1 / 4, 0])
    np.testing.assert_allclose(hold.before, [2 / 8, 3 / 4, 0])


def test_largest_leaves_out_what_never_happens():
    found = largest(np.array([0.0, 0.25, 0.75, 0.0]), 3)
    assert found == [(2, 0.75), (1, pytest.approx(0.25))]
