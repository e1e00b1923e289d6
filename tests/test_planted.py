"""The planted layer: what fires where, what rows add up to, and how learned features are judged."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse

from vasae_jax.cache import verify
from vasae_jax.dictionary.claims import AT, BEFORE, FAILS, HOLDS
from vasae_jax.names.by_layer import LayerNames

TOOLS = Path(__file__).parents[1] / "tools/planted"
SMALL = {
    "d_model": 24,
    "vocab_size": 400,
    "counts": (20, 15, 12, 6, 10, 3),
    "frequent": 80,
    "documents": 8,
}


@pytest.fixture(scope="module")
def tools():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        import layer
        import planted
        import truth

        yield SimpleNamespace(layer=layer, truth=truth, planted=planted)


@pytest.fixture(scope="module")
def small(tools):
    return tools.layer.plant(tools.layer.Settings(**SMALL), 0)


def fired_rows(layer, index):
    return np.flatnonzero(layer.activations[:, [index]].toarray()[:, 0])


def test_there_are_as_many_features_of_each_kind_as_asked_for(small):
    assert np.bincount(small.kinds).tolist() == list(SMALL["counts"])
    assert np.allclose(np.linalg.norm(small.directions, axis=1), 1, atol=1e-6)


def test_features_with_tokens_fire_where_their_rule_says_and_nowhere_else(small):
    token, windows = small.text.token, small.text.windows
    starts, ends = set(windows.starts[:-1].tolist()), set((windows.starts[1:] - 1).tolist())
    for index, rule in enumerate(small.rules):
        if not rule.tokens:
            continue
        allowed = []
        for row in range(len(token)):  # a plain loop, the definition
            if rule.relation == BEFORE:
                met = row not in ends and int(token[row + 1]) in rule.tokens
            else:
                met = int(token[row]) in rule.tokens
            if rule.after >= 0:
                met = met and row not in starts and int(token[row - 1]) == rule.after
            if met:
                allowed.append(row)
        rows = fired_rows(small, index)
        assert set(rows) <= set(allowed)
        assert len(rows) >= 0.3 * len(allowed) > 0


def test_a_quarter_of_the_frequent_tokens_has_no_feature_in_a_relation(tools, small):
    counts = np.bincount(small.text.token, minlength=SMALL["vocab_size"])
    frequent = np.argsort(-counts, kind="stable")[: SMALL["frequent"]]
    planted = tools.truth.has_feature(small)
    for relation in (AT, BEFORE):
        assert planted[relation].sum() == planted[relation, frequent].sum()
        assert (~planted[relation, frequent]).sum() >= SMALL["frequent"] // 4


def test_contexts_and_dense_features_have_no_token(tools, small):
    share = np.bincount(small.text.token) / len(small.text.token)
    for index in np.flatnonzero(small.kinds == tools.layer.DENSE):
        rows = fired_rows(small, index)
        assert 0.04 < len(rows) / len(small.text.token) < 0.45
        there = np.bincount(small.text.token[rows], minlength=len(share)) / len(rows)
        assert np.abs(there - share).max() < 0.03
    for index in np.flatnonzero(small.kinds == tools.layer.CONTEXT):
        assert small.rules[index].tokens == ()


def test_rows_are_mean_activations_directions_and_noise(small):
    some = np.arange(0, len(small.text.token), 97)
    active = small.activations[some].toarray()
    expected = small.mean + active @ small.directions + small.noise[some]
    assert small.rows(some).dtype == np.float32
    assert np.allclose(small.rows(some), expected, atol=1e-5)
    signal = small.activations @ small.directions
    shares = [part.var(axis=0, dtype=np.float64).sum() for part in (small.noise, signal)]
    assert shares[0] / sum(shares) == pytest.approx(0.1, abs=0.005)


def test_the_same_seed_gives_the_same_layer_and_another_one_another(tools, small):
    again, other = (tools.layer.plant(tools.layer.Settings(**SMALL), seed) for seed in (0, 1))
    assert again.rules == small.rules != other.rules
    rows = np.arange(200)
    assert np.array_equal(again.rows(rows), small.rows(rows))
    assert not np.array_equal(other.rows(rows), small.rows(rows))


def test_the_cache_has_the_rows_and_their_tokens(tools, small, tmp_path):
    url = str(tmp_path / "cache")
    cache = tools.layer.write_cache(small, url, tools.layer.Settings(**SMALL))
    verify(url)
    for split in ("train", "heldout"):
        rows = np.flatnonzero(small.text.heldout == (split == "heldout"))
        assert np.array_equal(
            cache.column("tokens", split).read(0, len(rows)), small.text.token[rows]
        )
        assert np.array_equal(cache.acts(0, split).read(0, len(rows)), small.rows(rows))


def test_correlations_are_pearsons(tools):
    rng = np.random.default_rng(0)
    first, second = ((rng.random((200, n)) < 0.3).astype(float) for n in (3, 4))
    found = tools.truth.correlations(*map(scipy.sparse.csr_matrix, (first, second)))
    assert np.allclose(found, np.corrcoef(first.T, second.T)[:3, 3:])


def learned(tools, layer, columns, names, relation, verdict):
    """An SAE that has the planted features ``columns`` exactly."""
    rows = np.flatnonzero(layer.text.heldout)
    active = layer.activations[rows][:, columns].tocoo()
    firings = SimpleNamespace(row=active.row, feature=active.col, activation=active.data)
    tokens = SimpleNamespace(observed=np.ones(len(rows), bool))
    observer = SimpleNamespace(firings=lambda: firings, row_tokens=lambda: tokens)
    fired = np.bincount(active.col, minlength=len(columns))
    return tools.truth.Learned(
        layer.directions[columns],
        observer,
        LayerNames(
            np.array(names)[:, None], np.array(relation), np.zeros((len(columns), 1), np.float32)
        ),
        SimpleNamespace(fired=fired, verdict=np.array(verdict)),
    )


def test_planted_features_match_themselves_and_names_are_right_or_wrong(tools, small):
    truth, kinds = tools.truth, small.kinds
    often = np.asarray((small.activations[small.text.heldout] > 0).sum(axis=0)).ravel() >= 5
    token, before, dense = (
        np.flatnonzero((kinds == kind) & often)[0]
        for kind in (tools.layer.TOKEN, tools.layer.BEFORE_TOKEN, tools.layer.DENSE)
    )
    columns = [token, before, dense]
    name, other = small.rules[token].tokens[0], small.rules[before].tokens[0]
    sae = learned(tools, small, columns, [name, other, name], [AT, AT, AT], [HOLDS, HOLDS, FAILS])
    matches = truth.match(small, sae)
    assert matches.planted.tolist() == columns
    counts = truth.tally(small, sae, matches)
    assert counts["matched, with a token: named rightly"] == (1, 2)  # the wrong relation is wrong
    assert counts["matched, without a token: holds"] == (0, 1)
    assert counts["recovered, dense"] == (1, SMALL["counts"][tools.layer.DENSE])
    assert counts["holds: matches another feature"] == (1, 2)


def test_a_direction_or_a_firing_alone_is_no_match(tools, small):
    dense = np.flatnonzero(small.kinds == tools.layer.DENSE)
    sae = learned(tools, small, dense[:2], [0, 0], [AT, AT], [FAILS, FAILS])
    swapped = tools.truth.Learned(sae.W_dec[::-1], sae.observer, sae.names, sae.evidence)
    assert tools.truth.match(small, swapped).planted.tolist() == [-1, -1]


@pytest.mark.slow
def test_names_of_recovered_features_are_right_and_contexts_have_none_that_hold(tools, tmp_path):
    settings = tools.layer.Settings(
        d_model=64, vocab_size=1024, counts=(80, 60, 40, 0, 60, 6), frequent=200, documents=30
    )
    size = tools.planted.Size(d_sae=256, k=6, steps=300, batch=256)
    found = tools.planted.measure(tmp_path, settings, size, seed=0)
    assert list(found) == ["default", "plain"]
    for measured in found.values():
        counts = measured["counts"]
        right, among = counts["matched, with a token: named rightly"]
        assert among >= 20
        assert right / among >= 0.95
        wrong, among = counts["matched, without a token: holds"]
        assert among >= 5
        assert wrong / among <= 0.2
    assert "named rightly" in tools.planted.table({k: [v] for k, v in found.items()})
