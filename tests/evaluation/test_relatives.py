"""What stands beside a feature, against plain loops in float64."""

import numpy as np
import pytest

from vasae_jax.evaluation.neighbours import (
    MIN_SHARED_ROWS,
    cofiring_features,
    firing_matches,
    logit_lens_tokens,
    near_features,
)
from vasae_jax.names.firings import Firings

F, D, V = 30, 6, 40


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).normal(size=(F, D)).astype(np.float32)


def cosines(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)[None, :]
    return a @ b.T / norms


def test_near_features_are_those_of_a_sort_without_the_feature_itself(rows):
    found, exact = near_features(rows, 4), cosines(rows, rows)
    np.fill_diagonal(exact, -2)
    order = np.argsort(-exact, axis=1)[:, :4]
    np.testing.assert_array_equal(found.ids, order)
    np.testing.assert_allclose(found.cosines, np.take_along_axis(exact, order, 1), atol=1e-6)


def test_equal_rows_are_near_one_another_and_few_features_have_few_neighbours(rows):
    equal = np.repeat(rows[:1], 5, axis=0)
    found = near_features(equal, 2)
    assert (found.ids != np.arange(5)[:, None]).all()
    np.testing.assert_allclose(found.cosines, 1, atol=1e-6)
    assert near_features(rows[:2], 4).ids.tolist() == [[1], [0]]


def test_matches_are_the_nearest_that_fire(rows):
    other = np.random.default_rng(1).normal(size=(20, D)).astype(np.float32)
    fires = np.arange(20) % 3 > 0
    exact = np.where(fires[None, :], cosines(rows, other), -2)
    found = firing_matches(rows, other, fires)
    np.testing.assert_array_equal(found.ids[:, 0], exact.argmax(axis=1))
    assert (firing_matches(rows, other, fires & False).ids == -1).all()


def test_features_that_fire_together_equal_sets_of_rows():
    rng = np.random.default_rng(2)
    fires = rng.random((200, F)) < rng.random(F)[None, :] * 0.3
    fires[:, 3] = False
    row, feature = np.nonzero(fires)
    blank = np.zeros(len(row), np.int32)
    found = cofiring_features(Firings(feature, blank + np.float32(1), blank, blank, row * 7), F, 3)
    sets = [set(np.flatnonzero(fires[:, f])) for f in range(F)]
    for f in range(F):
        best = []
        for other in range(F):
            both = len(sets[f] & sets[other])
            if other != f and both >= MIN_SHARED_ROWS:
                best.append((-both / len(sets[f] | sets[other]), other, both))
        best = sorted(best)[:3]
        assert [x for x in found.ids[f].tolist() if x >= 0] == [other for _, other, _ in best]
        for place, (overlap, _, both) in enumerate(best):
            assert found.overlap[f, place] == pytest.approx(-overlap, rel=1e-5)
            assert found.share[f, place] == pytest.approx(both / len(sets[f]), rel=1e-5)
    assert (found.ids[3] == -1).all()


@pytest.mark.parametrize("kind", ["rmsnorm", "layernorm"])
def test_head_tokens_equal_a_sort_of_the_logits(rows, kind):
    rng = np.random.default_rng(3)
    weight, unembedding = rng.random(D) + 0.5, rng.normal(size=(V, D)).astype(np.float32)
    wide = rows.astype(np.float64)
    if kind == "layernorm":
        wide = wide - wide.mean(axis=1, keepdims=True)
    logits = (wide * weight) @ unembedding.astype(np.float64).T
    logits -= logits.mean(axis=1, keepdims=True)
    found = logit_lens_tokens(rows, {"kind": kind, "weight": weight.tolist()}, unembedding, 5)
    for ids, by, sign in (
        (found.raised, found.raised_by, -1),
        (found.lowered, found.lowered_by, 1),
    ):
        order = np.argsort(sign * logits, axis=1)[:, :5]
        np.testing.assert_array_equal(ids, order)
        np.testing.assert_allclose(by, np.take_along_axis(logits, order, 1), atol=1e-4)
