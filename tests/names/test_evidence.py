"""What layer names are worth: against plain loops, and for features built to be right or wrong."""

from typing import NamedTuple

import numpy as np
import pytest
from scipy.stats import binom

from vasae_jax.dictionary.claims import AT, BEFORE, CONTRADICTED, HOLDS, NO_EVIDENCE
from vasae_jax.names.by_layer import LayerNames
from vasae_jax.names.evidence import MIN_OCCASIONS, evidence, verdicts
from vasae_jax.names.firings import Firings, RowTokens
from vasae_jax.names.scores import ceiling, name_scores, score_table

V, M, LENGTH = 30, 4, 12


class Case(NamedTuple):
    found: Firings
    names: LayerNames
    tokens: RowTokens


def make_text(rows, seed=0):
    """Windows of LENGTH tokens, of which some come often; each seventh row was not watched."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, V + 1)
    at = rng.choice(V, rows, p=share / share.sum()).astype(np.int32)
    window = (np.arange(rows) // LENGTH).astype(np.int32)
    before = np.where(np.r_[window[1:] == window[:-1], False], np.roll(at, -1), -1)
    return RowTokens(window, at, before.astype(np.int32), np.arange(rows) % 7 > 0)


def make_names(features, seed=1):
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.permutation(V)[:M] for _ in range(features)]).astype(np.int32)
    relation = (np.arange(features) % 2).astype(np.int8)
    return LayerNames(ids, relation, np.zeros(ids.shape, np.float32))


def firings_where(tokens, chosen, seed=2):
    """Features fire on the watched rows that ``chosen`` [F, rows] says."""
    feature, row = np.nonzero(chosen & tokens.observed)
    order = np.lexsort([feature, row])
    feature, row = feature[order], row[order]
    activation = np.random.default_rng(seed).gamma(2, size=len(row)).astype(np.float32)
    return Firings(feature, activation, tokens.token[row], tokens.next_token[row], row)


def at_names(names, tokens):
    """bool [F, rows], where a feature's names are at hand in its relation."""
    own = np.where(names.relation[:, None] == AT, tokens.token, tokens.next_token)
    return (own[:, :, None] == names.ids[:, None, :]).any(axis=2)


@pytest.fixture(scope="module")
def case():
    """Twelve features: at their names, elsewhere and anywhere in turn; the last never fires."""
    tokens, names = make_text(900), make_names(12)
    rng = np.random.default_rng(3)
    near = at_names(names, tokens)
    kind = np.arange(12)[:, None] // 2 % 3
    chosen = np.where(kind == 0, near, np.where(kind == 1, ~near, True))
    chosen &= rng.random(chosen.shape) < 0.3
    chosen[:8] ^= rng.random((8, 900)) < 0.02
    chosen[11] = False
    return Case(firings_where(tokens, chosen), names, tokens)


def plain(case):
    """name_hold, name_lift, name_rows [F, M], hits, occasions and rates [F], loop by loop."""
    found, names, tokens = case
    features = len(names.ids)
    hold, lift, rows = np.zeros((3, features, M))
    hits, occasions, rates = np.zeros((3, features))
    seen = np.flatnonzero(tokens.observed)
    for f in range(features):
        own = tokens.token if names.relation[f] == AT else tokens.next_token
        mine = [
            (int(row), float(a))
            for feature, row, a in zip(found.feature, found.row, found.activation, strict=True)
            if feature == f
        ]
        total = sum(a for _, a in mine)
        for j, name in enumerate(names.ids[f]):
            there = [a for row, a in mine if own[row] == name]
            base = sum(own[row] == name for row in seen) / len(seen)
            hold[f, j] = sum(there) / total if total else 0
            lift[f, j] = hold[f, j] / base if base else 0
            rows[f, j] = len(there)
        met = {(tokens.window[row], own[row]) for row, _ in mine}
        text = {(tokens.window[row], own[row]) for row in seen}
        occasions[f] = len(met)
        hits[f] = sum(token in names.ids[f] for _, token in met)
        rates[f] = sum(token in names.ids[f] for _, token in text) / len(text)
    return hold, lift, rows, hits, occasions, rates


def plain_verdicts(hits, occasions, rates, lift=2.0, share=0.05):
    """Benjamini and Hochberg by definition: the largest i with p_(i) <= 0.05 i / n."""
    found = []
    for f, (x, n, q) in enumerate(zip(hits, occasions, rates, strict=True)):
        if n < MIN_OCCASIONS:
            continue
        q2 = min(lift * q, 1)
        upper = sum(binom.pmf(i, n, q2) for i in range(int(x), int(n) + 1))
        lower = sum(binom.pmf(i, n, q) for i in range(int(x) + 1))
        found.append((2 * min(upper, lower), f, 1 if upper < lower else -1))
    found.sort()
    last = max((i for i, (p, *_) in enumerate(found, 1) if p <= share * i / len(found)), default=0)
    out = np.zeros(len(hits), np.int8)
    for _, f, sign in found[:last]:
        out[f] = sign
    return out


def test_evidence_equals_a_plain_loop(case):
    """Shares are float32 of float64 sums: relative 1e-6."""
    found = evidence(*case)
    hold, lift, rows, hits, occasions, rates = plain(case)
    np.testing.assert_allclose(found.name_hold, hold, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.name_lift, lift, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(found.name_rows, rows)
    np.testing.assert_allclose(found.hold, hold.sum(axis=1), rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(found.verdict, plain_verdicts(hits, occasions, rates))
    assert set(found.verdict) == {HOLDS, NO_EVIDENCE, CONTRADICTED}
    kinds = {f"{name}": array.dtype for name, array in vars(found).items()}
    assert kinds == {
        "name_hold": np.float32,
        "name_lift": np.float32,
        "name_rows": np.int32,
        "hold": np.float32,
        "verdict": np.int8,
    }


def test_verdicts_equal_a_plain_loop():
    rng = np.random.default_rng(0)
    occasions = rng.integers(0, 60, 300)
    rate = rng.uniform(0.01, 0.7, 300)
    true = np.clip(rate * rng.choice([0.3, 1, 1.5, 3], 300), 0, 1)
    hits = rng.binomial(occasions, true)
    found = verdicts(hits, occasions, rate)
    np.testing.assert_array_equal(found, plain_verdicts(hits, occasions, rate))
    assert set(found) == {HOLDS, NO_EVIDENCE, CONTRADICTED}
    assert not found[occasions < MIN_OCCASIONS].any()


def test_features_that_fire_at_their_names_or_elsewhere_or_at_random_are_told_apart():
    tokens, names = make_text(6000), make_names(60)
    near = at_names(names, tokens)
    rng = np.random.default_rng(4)
    for where, verdict in ((near, HOLDS), (~near, CONTRADICTED), (np.ones_like(near), 0)):
        chosen = where & (rng.random(where.shape) < 0.2)
        found = evidence(firings_where(tokens, chosen), names, tokens)
        if verdict == 0:  # false discoveries among sixty
            assert np.mean(found.verdict == verdict) >= 0.95
        else:
            np.testing.assert_array_equal(found.verdict, verdict)
            np.testing.assert_allclose(found.hold, 1.0 if verdict == HOLDS else 0.0, atol=1e-6)


def test_a_word_that_one_window_repeats_counts_once():
    """Twelve rows of one window, all at the name: one occasion, which is no evidence."""
    text, place = make_text(LENGTH * 50), np.arange(LENGTH * 50) % LENGTH
    repeated = (text.window == 0) | ((text.window % 4 == 0) & (place == 3))
    token = np.where(repeated, V, text.token)
    tokens = text._replace(token=token, observed=np.ones(len(place), bool))
    names = LayerNames(np.array([[V, V + 1]]), np.zeros(1, np.int8), np.zeros((1, 2), np.float32))
    found = evidence(firings_where(tokens, tokens.window[None] == 0), names, tokens)
    assert (found.hold[0], found.name_rows[0, 0], found.verdict[0]) == (1, LENGTH, NO_EVIDENCE)
    spread = tokens._replace(token=np.where(place == 3, V, text.token))
    chosen = (spread.token == V)[None] & (spread.window < LENGTH)
    found = evidence(firings_where(spread, chosen), names, spread)
    assert (found.hold[0], found.name_rows[0, 0], found.verdict[0]) == (1, LENGTH, HOLDS)


def test_names_that_are_all_of_the_text_are_no_evidence():
    tokens = make_text(600)
    ids = np.arange(V, dtype=np.int32)[None]
    names = LayerNames(ids, np.zeros(1, np.int8), np.zeros((1, V), np.float32))
    with np.errstate(all="raise"):
        found = evidence(firings_where(tokens, np.ones((1, 600), bool)), names, tokens)
    assert found.hold[0] == pytest.approx(1) and found.verdict[0] == NO_EVIDENCE


def test_nothing_that_fires_is_no_evidence(case):
    _, names, tokens = case
    found = evidence(firings_where(tokens, np.zeros((12, 900), bool)), names, tokens)
    assert not any(array.any() for array in vars(found).values())


def test_the_ceiling_is_each_features_own_best_tokens(case):
    found, features = case.found, len(case.names.ids)
    for relation in (AT, BEFORE):
        tokens = found.token if relation == AT else found.next_token
        expected = np.zeros((2, features))
        for f in range(features):
            mine = found.feature == f
            sums = [float(found.activation[mine & (tokens == t)].sum()) for t in range(V)]
            total = float(found.activation[mine].sum()) or 1
            expected[:, f] = max(sums) / total, sum(sorted(sums)[-10:]) / total
        got = ceiling(found, features, relation)
        np.testing.assert_allclose(np.stack(got), expected, rtol=1e-5)
        assert got.top1[11] == got.top10[11] == 0


def test_no_name_holds_more_than_the_ceiling(case):
    worth = evidence(*case)
    best = [ceiling(case.found, 12, relation, most=M) for relation in (AT, BEFORE)]
    one, ten = (np.where(case.names.relation == AT, *part) for part in zip(*best, strict=True))
    assert (worth.name_hold.max(axis=1) <= one + 1e-6).all()
    assert (worth.hold <= ten + 1e-6).all()


def plain_held(case, worth, norms, members):
    """The figures of Held over ``members``, feature by feature."""
    found, names, _ = case
    fires = [f for f in range(len(names.ids)) if (found.feature == f).any()]

    def holds(f, ids):
        mine = found.feature == f
        own = found.token if names.relation[f] == AT else found.next_token
        a = found.activation.astype(np.float64) * mine
        return a[np.isin(own, ids)].sum() / a.sum()

    def best(f):
        return holds(f, sorted(range(V), key=lambda t: -holds(f, [t]))[:10])

    masses = ("mass10", "ceiling_mass10")
    out = {"hold1": [], "hold10": [], "shuffled1": [], "shuffled10": [], **{m: [] for m in masses}}
    whole = 0.0
    for f in members:
        mass = norms[f] * found.activation[found.feature == f].astype(np.float64).sum()
        whole += mass
        out["hold1"].append(holds(f, names.ids[f, :1]))
        out["hold10"].append(holds(f, names.ids[f]))
        out["mass10"].append(mass * holds(f, names.ids[f]))
        out["ceiling_mass10"].append(mass * best(f))
        others = [g for g in fires if g != f]
        out["shuffled1"].append(np.mean([holds(f, names.ids[g, :1]) for g in others]))
        out["shuffled10"].append(np.mean([holds(f, names.ids[g]) for g in others]))
    figures = {name: float(np.mean(values)) for name, values in out.items() if name not in masses}
    verdict = worth.verdict[members]
    return figures | {
        **{name: sum(out[name]) / whole for name in masses},
        "holds": float(np.mean(verdict == HOLDS)),
        "contradicted": float(np.mean(verdict == CONTRADICTED)),
    }


def test_held_equals_a_plain_loop_in_every_group(case):
    found, names, _ = case
    worth, norms = evidence(*case), np.linspace(0.5, 2, 12)
    groups = name_scores(found, names, worth, norms)
    rate = np.bincount(found.feature, minlength=12)
    often = sorted(range(11), key=lambda f: -rate[f])
    members = {
        "all": list(range(11)),
        "at": [0, 2, 4, 6, 8, 10],
        "before": [1, 3, 5, 7, 9],
        "fire rate, quarter 1": often[:3],
        "fire rate, quarter 2": often[3:6],
        "fire rate, quarter 3": often[6:9],
        "fire rate, quarter 4": often[9:],
    }
    assert [one.group for one in groups] == list(members)
    for one in groups:
        expected = plain_held(case, worth, norms, members[one.group])
        assert one.features == len(members[one.group])
        for name, value in expected.items():
            assert getattr(one, name) == pytest.approx(value, rel=1e-5, abs=1e-9), name
        everyone = one.features + (one.group in ("all", "before"))  # the dead one is named *before*
        with_dead = expected["hold10"] * one.features / everyone
        assert one.hold10_dead_as_0 == pytest.approx(with_dead, rel=1e-5)
        assert one.hold1 <= one.ceiling1 + 1e-6 and one.hold10 <= one.ceiling10 + 1e-6
    table = score_table(groups, 771).splitlines()
    assert len(table) == 2 + len(groups) and "over 771 unmasked rows" in table[0]
    assert table[2].split()[:3] == ["all", "11", f"{groups[0].hold1:.1%}"]


def test_a_dictionary_of_which_nothing_fires_holds_nothing():
    tokens, names = make_text(100), make_names(5)
    found = firings_where(tokens, np.zeros((5, 100), bool))
    for one in name_scores(found, names, evidence(found, names, tokens), np.ones(5)):
        values = [value for name, value in vars(one).items() if name != "group"]
        assert values == [0] * 12
