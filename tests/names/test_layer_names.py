"""Layer names equal a plain float64 loop; their expectation is that of drawn rows."""

import dataclasses

import numpy as np
import pytest
from layer_names_fixtures import D, F, K, PlainRelation, make_anchors, make_params

from vasae_jax.activations import JumpReLU, TopK
from vasae_jax.dictionary.claims import AT, BEFORE
from vasae_jax.names import by_layer as layer
from vasae_jax.names.by_layer import common_threshold, layer_names

NEAR = 1e-4
"""Float32 products of length 8, the tail of a normal, and sums over 60 tokens."""


def plain(params, k, pre_bias, anchors):
    return [PlainRelation(params, k, pre_bias, anchors, name) for name in ("at", "before")]


def check(found, relations, m):
    """Each feature has the names of its relation, but for the order of near ties."""
    worth = np.stack([relation.worth(m) for relation in relations])
    clear = np.abs(worth[0] - worth[1]) > NEAR
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(found.relation[clear], (worth[1] > worth[0])[clear])
    assert found.ids.shape == found.expected.shape == (len(clear), m)
    for i, relation in enumerate(found.relation):
        own, ids = relations[relation], found.ids[i]
        best = own.best(m)[i]
        np.testing.assert_allclose(found.expected[i], own.share[i, ids], atol=NEAR)
        np.testing.assert_allclose(own.score[i, ids], own.score[i, best], atol=NEAR)
        gaps = np.diff(-own.score[i, np.r_[best, own.best(m + 1)[i, m:]]])
        apart = np.r_[True, gaps > NEAR][: m + 1]
        sure = apart[:m] & np.r_[apart[1:], True][:m]
        np.testing.assert_array_equal(ids[sure], best[sure])


@pytest.mark.parametrize("pre_bias", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("k", "bias"), [(K, -1.5), (1, 2.0), (12, -6.0)])
def test_names_equal_the_float64_twin(pre_bias, k, bias):
    anchors = make_anchors()
    params = make_params(anchors, bias=bias)
    relations = plain(params, k, pre_bias, anchors)
    found = layer_names(params, TopK(k), pre_bias, anchors, m=5)
    check(found, relations, 5)
    assert (found.ids.dtype, found.relation.dtype) == (np.int32, np.int8)
    if bias == -1.5:
        assert set(found.relation) == {AT, BEFORE}
        assert min(relation.bar for relation in relations) > 0
    if k == 12:
        assert max(relation.bar for relation in relations) == 0  # fewer than k fire


@pytest.mark.parametrize("features", [1, F, 1100])
def test_the_bar_lets_k_features_fire(features):
    """Of more than 512 features an even choice is looked at."""
    anchors = make_anchors()
    params = make_params(anchors, features)
    k = max(1, features // 10)
    own = PlainRelation(params, k, 1.0, anchors, "at")
    wide = {name: value.astype(np.float64) for name, value in params.items()}
    met = layer.preactivations(wide, 1.0, anchors.at)
    tokens = layer.Tokens(anchors.at.rows[own.seen], own.p[own.seen].astype(np.float32))
    assert float(common_threshold(met, tokens, k)) == pytest.approx(own.bar, rel=1e-4, abs=1e-5)


def test_expected_shares_are_those_of_drawn_rows():
    """200,000 rows, normal about their tokens' means: shares within two hundredths."""
    rng = np.random.default_rng(3)
    anchors = make_anchors(tokens=12)
    params = make_params(anchors, features=10, bias=0.0)
    own = PlainRelation(params, 2, 1.0, anchors, "at")
    tokens = rng.choice(12, 200_000, p=own.p)
    noise = rng.multivariate_normal(np.zeros(D), anchors.at.within, len(tokens))
    x = anchors.at.rows[tokens] + anchors.at.mean + noise
    pre = (x - params["b_dec"]) @ params["W_enc"].T + params["b_enc"]
    fires = pre > own.bar
    assert own.bar > 0 and fires.sum(axis=1).mean() == pytest.approx(2, rel=0.02)
    found = layer_names(params, TopK(2), 1.0, anchors, m=3)
    for i in np.flatnonzero(found.relation == AT):
        active = pre[:, i] * fires[:, i]
        drawn = np.bincount(tokens, active, 12) / max(active.sum(), 1e-9)
        np.testing.assert_allclose(found.expected[i], drawn[found.ids[i]], atol=0.02)
    assert (found.relation == AT).sum() >= 3


@pytest.mark.parametrize("block", [1, 7, F, 1000])
def test_blocks_of_features_do_not_matter(monkeypatch, block):
    anchors = make_anchors()
    params = make_params(anchors)
    monkeypatch.setattr(layer, "BLOCK", block)
    found = layer_names(params, TopK(K), 1.0, anchors, m=5)
    check(found, plain(params, K, 1.0, anchors), 5)


def test_the_same_weights_have_the_same_names():
    anchors = make_anchors()
    first, second = (layer_names(make_params(anchors), TopK(K), 1.0, anchors) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_unseen_tokens_are_never_named_and_all_seen_ones_may_be():
    anchors = make_anchors()
    seen = {name: set(np.flatnonzero(getattr(anchors, name).count)) for name in ("at", "before")}
    fewest = min(map(len, seen.values()))
    assert fewest < len(anchors.at.rows)
    found = layer_names(make_params(anchors), TopK(K), 1.0, anchors, m=1000)
    assert found.ids.shape == (F, fewest)
    for ids, relation in zip(found.ids, found.relation, strict=True):
        assert len(set(ids)) == fewest
        assert set(ids) <= seen[("at", "before")[relation]]


def test_where_nothing_follows_all_features_fire_at_their_names():
    anchors = make_anchors(nothing_follows=True)
    params = make_params(anchors)
    found = layer_names(params, TopK(K), 1.0, anchors, m=5)
    assert not found.relation.any()
    own = PlainRelation(params, K, 1.0, anchors, "at")
    np.testing.assert_allclose(
        found.expected, np.take_along_axis(own.share, found.ids, axis=1), atol=NEAR
    )


def test_a_token_that_is_merely_frequent_names_nothing():
    """Half of the rows are of one token, and a feature that fires anywhere fires there most."""
    anchors = make_anchors()
    count = anchors.at.count.copy()
    count[5] = count.sum()
    anchors = dataclasses.replace(
        anchors,
        at=dataclasses.replace(anchors.at, count=count),
        before=dataclasses.replace(anchors.before, count=count),
    )
    params = make_params(anchors)
    params["W_enc"][0], params["b_enc"][0] = 1e-3, 30.0
    found = layer_names(params, TopK(K), 1.0, anchors)
    own = PlainRelation(params, K, 1.0, anchors, "at")
    assert own.share[0].argmax() == 5 and own.share[0, 5] > 0.4
    assert 5 not in found.ids[0]


def test_a_feature_that_is_never_expected_to_fire_is_finite():
    anchors = make_anchors()
    params = make_params(anchors)
    params["b_enc"][3], params["W_enc"][4] = -1e6, 0.0
    found = layer_names(params, TopK(K), 1.0, anchors)
    assert np.isfinite(found.expected).all()
    assert not found.expected[3].any() and found.relation[3] == AT


def test_a_feature_with_a_threshold_fires_above_its_own():
    anchors = make_anchors()
    threshold = np.linspace(-1.0, 2.0, F).astype(np.float32)
    params = {**make_params(anchors), "threshold": threshold}
    check(layer_names(params, JumpReLU(), 1.0, anchors, m=5), plain(params, F, 1.0, anchors), 5)
