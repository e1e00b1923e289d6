"""Where features fire, against a plain loop, and whether names hold, by hand."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from cache_fixtures import make_cache
from watch_fixtures import observe_split, plain_firings

from vasae_jax.config import Config, DataConfig, SAEConfig
from vasae_jax.names.firings import FiringObserver, Firings, name_hold, token_shares, top_tokens

V = 30


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Parameters, a cache and a config: 12 features of which 3 may fire on a row."""
    cache = make_cache(tmp_path_factory.mktemp("cache"), rows=300, d=8, vocab=V, layers=(1,))
    rng = np.random.default_rng(0)
    shapes = {"W_enc": (12, 8), "b_enc": (12,), "W_dec": (12, 8), "b_dec": (8,)}
    params = {
        name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()
    }
    data = DataConfig(layer=1, skip_positions=1, max_norm=0.0)
    return params, cache, replace(Config(), data=data, sae=SAEConfig(k=3, pre_bias=1.0))


def test_firings_equal_a_plain_loop(case):
    """Activations are float32 products of length 8: relative 1e-4."""
    found, expected = observe_split(*case).firings(), plain_firings(*case)
    order = np.lexsort([found.feature, found.row])
    row, feature, activation, token, following = (
        np.array(part) for part in zip(*expected, strict=True)
    )
    for name, plain in (("row", row), ("feature", feature), ("token", token)):
        np.testing.assert_array_equal(getattr(found, name)[order], plain)
    np.testing.assert_array_equal(found.next_token[order], following)
    np.testing.assert_allclose(found.activation[order], activation, rtol=1e-4, atol=1e-5)
    assert -1 in following


def test_observed_rows_equal_a_plain_loop(case):
    _, cache, _ = case
    count = cache.rows("heldout")
    tokens = cache.column("tokens", "heldout").read(0, count)
    positions = cache.column("positions", "heldout").read(0, count)
    windows, window = [], 0
    for row in range(count):
        window += row == 0 or positions[row] != positions[row - 1] + 1
        windows.append(window)
    found = observe_split(*case).row_tokens()
    np.testing.assert_array_equal(found.window, windows)
    assert found.window[-1] == 10  # of 20 rows each
    np.testing.assert_array_equal(found.token, tokens)
    following = [
        tokens[row + 1] if row + 1 < count and windows[row + 1] == windows[row] else -1
        for row in range(count)
    ]
    np.testing.assert_array_equal(found.next_token, following)
    np.testing.assert_array_equal(found.observed, positions >= 1)


def test_rows_of_batches_left_out_and_padding_are_not_seen(case):
    _, cache, _ = case
    rows = cache.rows("heldout")
    observer = FiringObserver(cache, "heldout", rows // 2)
    keep = np.arange(64) % 3 > 0
    for start in range(0, rows, 64):  # 200 rows: the last batch is padded from 8
        real = np.arange(start, start + 64) < rows
        observer(start, keep & real, np.ones((64, 1)), np.zeros((64, 1), np.int32))
    place = np.arange(rows)
    expected = (place // 64 % 2 == 0) & (place % 64 % 3 > 0)
    np.testing.assert_array_equal(observer.row_tokens().observed, expected)
    assert observer.rows == expected.sum()


def test_shares_equal_a_plain_loop(case):
    asked = (3, 7)
    found = token_shares(observe_split(*case).firings(), asked, V)
    at, before = np.zeros((2, V)), np.zeros((2, V))
    for _, feature, activation, token, following in plain_firings(*case):
        if feature in asked:
            at[asked.index(feature), token] += activation
            if following >= 0:
                before[asked.index(feature), following] += activation
    np.testing.assert_allclose(found.at, at / at.sum(1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(found.before, before / before.sum(1, keepdims=True), atol=1e-5)


def test_name_hold_by_hand():
    # Feature 0 is named 5 or 6, feature 1 is named 7 or 8, feature 2 never fires.
    names = np.array([[5, 6], [7, 8], [1, 2]])
    found = Firings(
        feature=np.array([0, 0, 0, 1, 1]),
        activation=np.array([1.0, 2.0, 5.0, 3.0, 1.0], np.float32),
        token=np.array([5, 7, 6, 1, 8]),
        next_token=np.array([1, 6, -1, 7, 2]),
        row=np.array([0, 1, 1, 2, 3]),
    )
    hold = name_hold(found, names)
    np.testing.assert_allclose(hold.at, [6 / 8, 1 / 4, 0])
    np.testing.assert_allclose(hold.before, [2 / 8, 3 / 4, 0])


def test_top_tokens_leave_out_what_never_happens():
    found = top_tokens(np.array([0.0, 0.25, 0.75, 0.0]), 3)
    assert found == [(2, 0.75), (1, pytest.approx(0.25))]
