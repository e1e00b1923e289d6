"""Names by evidence and the counts under them, against plain loops, and hard cases by hand."""

import numpy as np
import pytest
from evidence_twin import Text, plain_counts, plain_f1, plain_names

from vasae_jax.dictionary.claims import AT, BEFORE, NO_NAME
from vasae_jax.names import counts as counts_module
from vasae_jax.names.by_evidence import GAIN, names_by_evidence

V, F, M = 12, 9, 4


def make_text(rows=240, seed=0):
    """Windows of ten rows, features that like tokens at or before; the last never fires."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, V + 1)
    token = rng.choice(V, rows, p=share / share.sum())
    window = np.arange(rows) // 10
    goes_on = np.r_[window[1:] == window[:-1], False]
    next_token = np.where(goes_on, np.roll(token, -1), -1)
    liking = rng.random((F, V)) ** 4
    liked = np.where(np.arange(F)[:, None] % 2, next_token, token)
    fires = rng.random((F, rows)) < np.take_along_axis(liking, np.maximum(liked, 0), axis=1)
    fires[-1] = False
    return Text(token, next_token, (fires * rng.gamma(2, size=fires.shape)).T)


def names_of(found, feature):
    return [token for token in found.ids[feature].tolist() if token != NO_NAME]


@pytest.mark.parametrize("pending", [1, 2**22])
def test_counts_equal_a_plain_loop(monkeypatch, pending):
    """Whole numbers are equal; activations are float64 sums in another order: relative 1e-12."""
    monkeypatch.setattr(counts_module, "PENDING", pending)
    text = make_text()
    found = text.counts(V)
    pairs, rows = plain_counts(text, V)
    for relation in (AT, BEFORE):
        of = found.relations[relation]
        assert (np.diff(of.pairs) > 0).all()
        got = {
            (relation, int(pair) // V, int(pair) % V): (fired, activation)
            for pair, fired, activation in zip(of.pairs, of.fired, of.activation, strict=True)
        }
        expected = {key: value for key, value in pairs.items() if key[0] == relation}
        assert got.keys() == expected.keys()
        for key, (fired, activation) in expected.items():
            assert got[key] == (fired, pytest.approx(activation, rel=1e-12))
        np.testing.assert_array_equal(of.rows, [rows.get((relation, t), 0) for t in range(V)])
    np.testing.assert_array_equal(found.fired, (text.activation > 0).sum(axis=0))
    np.testing.assert_allclose(found.activation, text.activation.sum(axis=0, dtype=np.float64))
    assert found.rows == len(text.token)


def test_counts_of_pairs_that_were_not_met_are_0():
    found = make_text().counts(V)
    ids = np.full((F, 2), NO_NAME)
    ids[:, 1] = V - 1
    fired, activation = found.relations[AT].of(ids)
    assert not fired[:, 0].any() and not activation[:, 0].any()
    assert not fired[-1].any() and not found.shares(AT, ids)[-1].any()


@pytest.mark.parametrize("seed", range(4))
def test_names_equal_a_plain_greedy_search(seed):
    text = make_text(seed=seed)
    found = names_by_evidence(text.counts(V), M)
    assert (found.ids.dtype, found.relation.dtype) == (np.int32, np.int8)
    for feature in range(F - 1):
        relation, names = plain_names(text, feature, V, M, GAIN)
        assert (int(found.relation[feature]), names_of(found, feature)) == (relation, names)
        value = text.activation[:, feature].astype(np.float64)
        for place, name in enumerate(names):
            share = value[text.related(relation) == name].sum() / value.sum()
            assert found.expected[feature, place] == pytest.approx(share, rel=1e-6)
    assert set(found.relation[: F - 1].tolist()) == {AT, BEFORE}


def test_names_of_few_features_at_a_time_are_the_same(monkeypatch):
    counts = make_text().counts(V)
    whole = names_by_evidence(counts, M)
    monkeypatch.setattr("vasae_jax.names.by_evidence.FEATURES", 2)
    for one, other in zip(names_by_evidence(counts, M), whole, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_feature_that_never_fires_has_no_name():
    found = names_by_evidence(make_text().counts(V), M)
    assert names_of(found, F - 1) == [] and not found.expected[F - 1].any()


def one_feature(token, next_token, fires):
    text = Text(token, next_token, np.asarray(fires, np.float32)[:, None])
    return text, names_by_evidence(text.counts(V), M)


def test_equal_candidates_go_by_the_lower_id_and_at_before_before():
    # Tokens 7 and 3 tell as much; so does what follows them, in the other relation.
    text, found = one_feature([7, 3, 0, 0], [7, 3, 0, 0], [1, 1, 0, 0])
    assert (found.relation[0], names_of(found, 0)) == (AT, [3, 7])
    assert plain_f1(text, AT, 0, [3, 7]) == 1


def test_a_name_equal_in_both_relations_is_taken_in_the_one_that_tells_more():
    # Token 5 follows itself: the feature fires before every 5, and at only two of three.
    _, found = one_feature([1, 5, 5, 2, 1, 2], [5, 5, 2, -1, 2, -1], [1, 1, 0, 0, 0, 0])
    assert (found.relation[0], names_of(found, 0)) == (BEFORE, [5])


def test_many_tokens_met_once_do_not_outdo_one_that_is_always_there():
    """A pair of tokens: at 0 on 6 of 100 rows, and never elsewhere. What follows is chance."""
    token, following = np.zeros(100, int), np.full(100, 1)
    following[:6] = np.arange(2, 8)
    fires = np.arange(100) < 6
    text, found = one_feature(token, following, fires)
    assert plain_f1(text, BEFORE, 0, [2, 3, 4, 5]) > plain_f1(text, AT, 0, [0])
    assert (found.relation[0], names_of(found, 0)) == (AT, [0])


def test_a_token_at_one_row_only_may_be_a_name_and_no_more_follow():
    _, found = one_feature([4, 0, 1, 2], [-1, -1, -1, -1], [1, 0, 0, 0])
    assert (found.relation[0], names_of(found, 0)) == (AT, [4])


def test_a_name_that_adds_too_little_is_left_out():
    # Half of a thousand rows are token 0, the feature's; of the 10 rows of token 1 it has 2.
    token = [0] * 500 + [1] * 10 + [2] * 490
    fires = [1] * 500 + [1] * 2 + [0] * 498
    text, found = one_feature(token, [-1] * 1000, fires)
    assert names_of(found, 0) == [0]
    assert plain_f1(text, AT, 0, [0, 1]) < plain_f1(text, AT, 0, [0]) * (1 + GAIN)


def test_rows_at_a_windows_end_are_before_no_token():
    _, found = one_feature([1, 2, 1, 2], [-1, -1, -1, -1], [1, 0, 1, 0])
    assert (found.relation[0], names_of(found, 0)) == (AT, [1])


def test_no_row_gives_no_names():
    counts = Text([], [], np.zeros((0, F))).counts(V)
    found = names_by_evidence(counts, M)
    assert (found.ids == NO_NAME).all() and not found.expected.any()
