"""The certificate never lies, and exact mode is the brute-force search."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vasae_jax.anchor.certificate import Budget, full_search, gaps, staleness, update
from vasae_jax.anchor.search import anchor_matrix
from vasae_jax.sae import unit_rows

F, V, D = 96, 300, 24


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def make_anchors(kind, rng):
    if kind == "random":
        return unit(rng.normal(size=(V, D)))
    if kind == "clustered":
        centres = rng.normal(size=(10, D))
        return unit(centres[rng.integers(0, 10, V)] + 0.05 * rng.normal(size=(V, D)))
    rows = rng.normal(size=(V, D)) + 3.0  # a strong common direction, and duplicates
    rows[V // 2 :] = rows[: V - V // 2]
    return unit(rows)


def walk(rng, kind, anchors, steps, size):
    """Rows that turn a little every step, some much faster than others."""
    rows = rng.normal(size=(F, D)) if kind == "random" else anchors[rng.integers(0, V, F)].copy()
    speed = size * rng.random((F, 1)) ** 3
    for _ in range(steps):
        rows = rows + speed * rng.normal(size=(F, D))
        yield rows.astype(np.float32)


def true_cosines(rows, anchors):
    wide = rows.astype(np.float64)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True) @ anchors.astype(np.float64).T


@pytest.mark.parametrize("kind", ["random", "clustered", "duplicates"])
@pytest.mark.parametrize("size", [0.003, 0.05])
def test_no_certified_row_is_ever_wrong(kind, size):
    rng = np.random.default_rng(7)
    anchors = make_anchors(kind, rng)
    step = jax.jit(update, static_argnums=3)
    state, certified = None, 0
    for rows in walk(rng, kind, anchors, 40, size):
        if state is None:
            state = jax.jit(full_search)(jnp.asarray(rows), jnp.asarray(anchors))
            continue
        state, open_rows = step(
            jnp.asarray(rows), jnp.asarray(anchors), state, Budget(F // 16, F // 8)
        )
        sure = ~np.asarray(open_rows)
        cosines = true_cosines(rows, anchors)
        mine = np.take_along_axis(cosines, np.asarray(state.anchor_near)[:, None], 1)[:, 0]
        short = cosines.max(axis=1) - mine
        # 1e-6: a certified anchor may tie with the best within float32 rounding
        assert short[sure].max(initial=0.0) <= 1e-6
        certified += sure.sum()
    assert certified > F  # the test would be empty if nothing were ever certified


def test_the_bounds_hold_for_every_anchor():
    rng = np.random.default_rng(1)
    anchors = make_anchors("clustered", rng)
    step, state = jax.jit(update, static_argnums=3), None
    for rows in walk(rng, "clustered", anchors, 25, 0.02):
        if state is None:
            state = full_search(jnp.asarray(rows), jnp.asarray(anchors))
        state, _ = step(jnp.asarray(rows), jnp.asarray(anchors), state, Budget(2, 24))
    ref = np.asarray(state.anchor_ref)
    angles = np.arccos(np.clip(true_cosines(ref, anchors), -1, 1))
    listed = np.asarray(state.anchor_list)
    outside = angles.copy()
    np.put_along_axis(outside, listed, np.inf, axis=1)
    assert (outside.min(axis=1) - np.asarray(state.anchor_outside)).min() >= -1e-5
    others = angles.copy()
    np.put_along_axis(others, np.asarray(state.anchor_near)[:, None], np.inf, axis=1)
    assert (others.min(axis=1) - np.asarray(state.anchor_runner)).min() >= -1e-5


def test_a_full_budget_is_the_brute_force_search_to_the_last_id():
    rng = np.random.default_rng(3)
    anchors = make_anchors("random", rng)
    state = full_search(jnp.asarray(rng.normal(size=(F, D)), jnp.float32), jnp.asarray(anchors))
    for rows in walk(rng, "random", anchors, 5, 0.3):
        state, open_rows = update(jnp.asarray(rows), jnp.asarray(anchors), state, Budget(F, F))
        assert not np.asarray(open_rows).any()
        np.testing.assert_array_equal(state.anchor_near, true_cosines(rows, anchors).argmax(1))


def test_the_worst_rows_are_searched_first():
    rng = np.random.default_rng(4)
    anchors = make_anchors("random", rng)
    rows = rng.normal(size=(F, D)).astype(np.float32)
    state = full_search(jnp.asarray(rows), jnp.asarray(anchors))
    rows[:3] = -rows[:3]  # these turned by 180 degrees
    state, _ = update(jnp.asarray(rows), jnp.asarray(anchors), state, Budget(3, 3))
    best = true_cosines(rows[:3], anchors).argmax(1)
    np.testing.assert_array_equal(state.anchor_near[:3], best)


def test_staleness_counts_what_a_full_search_would_change():
    rng = np.random.default_rng(8)
    anchors = make_anchors("random", rng)
    rows = rng.normal(size=(F, D)).astype(np.float32)
    state = full_search(jnp.asarray(rows), jnp.asarray(anchors))
    rows[: F // 4] = -rows[: F // 4]
    cosines = true_cosines(rows, anchors)
    cached = cosines[np.arange(F), np.asarray(state.anchor_near)]
    found = staleness(jnp.asarray(rows), jnp.asarray(anchors), state)
    assert float(found.mismatch) == 0.25
    assert float(found.shortfall) == pytest.approx((cosines.max(1) - cached).mean(), abs=1e-6)


def test_a_vocabulary_shorter_than_the_list_is_always_covered():
    rng = np.random.default_rng(5)
    anchors = unit(rng.normal(size=(4, D)))
    rows = rng.normal(size=(F, D)).astype(np.float32)
    state = full_search(jnp.asarray(rows), jnp.asarray(anchors))
    assert np.isinf(np.asarray(state.anchor_outside)).all()
    assert (np.asarray(gaps(jnp.asarray(rows), state)[1]) < 0).all()


def test_anchor_matrix_centres_and_normalises():
    embedding = np.random.default_rng(6).normal(size=(50, 8)).astype(np.float32) + 5
    raw, centred = (anchor_matrix(embedding, center=center) for center in (False, True))
    wide = embedding.astype(np.float64)
    np.testing.assert_allclose(raw, unit(wide), atol=1e-6)
    np.testing.assert_allclose(centred, unit(wide - wide.mean(0)), atol=1e-6)
    assert (anchor_matrix(np.zeros((3, 4), np.float32), center=True) == 0).all()


@pytest.mark.parametrize(("turned", "left"), [(1, 1), (2, 0)])
def test_a_search_waits_until_a_64th_of_the_features_need_one(turned, left):
    rng = np.random.default_rng(7)
    anchors = unit_rows(jnp.asarray(rng.normal(size=(500, 24)), jnp.float32))
    W = jnp.asarray(rng.normal(size=(128, 24)), jnp.float32)
    state = full_search(W, anchors)
    moved = W.at[:turned].set(-W[:turned])  # further than any list covers
    _, uncertified = update(moved, anchors, state, Budget(search=64, refresh=64))
    found = np.asarray(uncertified)
    assert found[:turned].sum() == left
