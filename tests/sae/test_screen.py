"""Top-k through a bfloat16 product finds what the float32 product has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from vasae_jax.activations import TopK
from vasae_jax.sae import ForwardConfig, forward, screen, sparse
from vasae_jax.sae import topk as tiles

D, F, ROWS, K = 32, 700, 40, 8


def whole(rng, shape, top):
    """Whole numbers: their products are exact in float32, and not in bfloat16 above 256."""
    return rng.integers(-top, top + 1, shape).astype(np.float32)


def winners(x, W, b):
    """By a stable sort of float64 products: equal values by lowest id."""
    pre = np.maximum(x.astype(np.float64) @ W.T.astype(np.float64) + b, 0)
    ids = np.argsort(-pre, axis=1, kind="stable")[:, :K]
    return np.take_along_axis(pre, ids, axis=1), ids


def screened(x, W, b):
    run = jax.jit(screen.product_top_k, static_argnums=3)
    return [np.asarray(part) for part in run(jnp.asarray(x), jnp.asarray(W), jnp.asarray(b), K)]


def unsure(x, W, b):
    """Rows that the screen cannot vouch for."""
    bounds = np.sort(
        np.asarray(screen._upper_bounds(jnp.asarray(x), jnp.asarray(W), jnp.asarray(b)))
    )
    least = bounds[:, -2 * K]
    return int(((least >= winners(x, W, b)[0][:, -1]) & (least > 0)).sum())


def rows_of(kind):
    """x, W, b, and how many rows should be unsure: none, some or most."""
    rng = np.random.default_rng(1)
    x, W, b = whole(rng, (ROWS, D), 300), whole(rng, (F, D), 300), whole(rng, F, 50)
    if kind == "a tile is unsure":
        W[: 4 * K] = W[0]  # more copies of a row than candidates
        x[:3] = W[0]
    if kind == "clustered":
        W = W[rng.integers(0, 8, F)] + whole(rng, (F, D), 1)
    if kind == "few fire":
        b -= 1e6
        b[: K // 2] += 1e6
    return x, W, b


@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [
        ("spread", 0, ROWS // screen.TILES),
        ("a tile is unsure", 1, ROWS // screen.TILES),
        ("clustered", ROWS // screen.TILES + 1, ROWS),
        ("few fire", 0, 0),
    ],
)
def test_values_and_ids_are_those_of_the_whole_product(kind, least, most):
    x, W, b = rows_of(kind)
    assert least <= unsure(x, W, b) <= most  # no round, one, and several
    values, ids = screened(x, W, b)
    expected, expected_ids = winners(x, W, b)
    np.testing.assert_array_equal(values, expected)
    fires = expected > 0
    np.testing.assert_array_equal(ids[fires], expected_ids[fires])


def test_bound_is_never_below_the_product():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(ROWS, D)) * np.exp(rng.normal(size=(ROWS, 1)) * 3)
    W = rng.normal(size=(F, D)) * np.exp(rng.normal(size=(F, 1)) * 3)
    x, W, b = (a.astype(np.float32) for a in (x, W, rng.normal(size=F)))
    upper = screen._upper_bounds(jnp.asarray(x), jnp.asarray(W), jnp.asarray(b))
    exact = x.astype(np.float64) @ W.T.astype(np.float64) + b
    assert (np.asarray(upper, np.float64) >= exact).all()


def test_rounding_that_takes_the_most_it_can_drops_no_feature():
    """Every number of the largest feature and of x lies halfway between two of bfloat16.

    A bound of 2^-9 of each number, half of what rounding can take, drops that feature.
    """
    d, halfway, next_number = 64, 1 + 2.0**-8, 1 + 2.0**-7
    x, b = np.full((1, d), halfway, np.float32), np.zeros(67, np.float32)
    W = np.ones((67, d), np.float32)
    W[0] = halfway
    W[1 : K + 1, :30] = next_number  # exact in bfloat16, and just below feature 0
    W[K + 1 :, :3] = next_number
    values, ids = screened(x, W, b)
    expected, expected_ids = winners(x, W, b)
    np.testing.assert_array_equal(values, expected.astype(np.float32))
    np.testing.assert_array_equal(ids, expected_ids)


def test_small_dictionaries_are_not_screened():
    assert not screen.may_pay(screen.LEAST_FEATURES * K - 1, K)


def test_the_ways_that_are_timed_have_the_same_answer():
    whole, screened = (way() for way in screen.ways(64, D, 1000, K).values())
    np.testing.assert_allclose(whole, screened, rtol=1e-5)
    assert whole.shape == (64, K) and (whole > 0).all()


def test_a_forward_pass_by_the_screen_equals_the_reference():
    rng = np.random.default_rng(3)
    shapes = {"W_enc": (F, D), "b_enc": (F,), "W_dec": (F, D), "b_dec": (D,)}
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    x = rng.normal(size=(ROWS, D)) + 3 * params["b_dec"]
    expected, _, _ = reference.forward(params, x, K, 1.0)
    narrow = {name: jnp.asarray(value, jnp.float32) for name, value in params.items()}
    found = forward(
        narrow, jnp.asarray(x, jnp.float32), ForwardConfig(TopK(K), pre_bias=1.0, screen=True)
    ).x_hat
    # float32 sums of terms up to about 100
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("by_screen", [False, True])
def test_tiles_of_rows_have_the_bits_of_all_at_once(by_screen, monkeypatch):
    rng = np.random.default_rng(4)
    x, W = (jnp.asarray(rng.normal(size=(n, D)), jnp.float32) for n in (ROWS, F))
    shift, b = jnp.ones(D), jnp.zeros(F)
    how = ForwardConfig(TopK(K), pre_bias=1.0, screen=by_screen)
    found = []
    for rows in (ROWS, 8, ROWS - 1):  # at once, in five tiles, and where no tile divides them
        monkeypatch.setattr(tiles, "CPU_TILE", rows)
        found.append(jax.jit(lambda *given: sparse.encode(*given, None, how))(x, shift, W, b))
        assert tiles.tile(ROWS) == (8 if rows == 8 else ROWS)
    for other in found[1:]:
        np.testing.assert_array_equal(other.ids, found[0].ids)
        np.testing.assert_array_equal(other.values, found[0].values)
