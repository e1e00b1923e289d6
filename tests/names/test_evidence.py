"""What layer names are worth: against plain loops, and for features built to be right or wrong."""

from typing import NamedTuple

import numpy as np
import pytest
from scipy.stats import binom

from vasae_jax.dictionary.claims import AT, BEFORE, FAILS, HOLDS, IN_PART, NO_NAME, UNTESTED
from vasae_jax.names.by_layer import LayerNames
from vasae_jax.names.detection import detection, detection_table
from vasae_jax.names.evidence import MIN_OCCASIONS, evidence, ordered_evidence, verdicts
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
    """What the evidence counts, loop by loop: arrays [F, M], and occasions and size [F]."""
    found, names, tokens = case
    features = len(names.ids)
    hold, lift, rows, text_rows, hits, text_hits = np.zeros((6, features, M))
    occasions, size = np.zeros((2, features))
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
            text_rows[f, j] = sum(own[row] == name for row in seen)
        met = {(tokens.window[row], own[row]) for row, _ in mine}
        text = {(tokens.window[row], own[row]) for row in seen}
        occasions[f] = len(met)
        size[f] = len(text)
        for j, name in enumerate(names.ids[f]):
            hits[f, j] = sum(token == name for _, token in met)
            text_hits[f, j] = sum(token == name for _, token in text)
    return hold, lift, rows, text_rows, hits, text_hits, occasions, size


def plain_verdicts(hits, occasions, text, size, held, lift=2.0, share=0.05):
    """Benjamini and Hochberg by definition: the largest i with p_(i) <= 0.05 i / n; lists [n]."""
    out, found = np.zeros(len(hits), np.int8), []
    for i, (x, n, there) in enumerate(zip(hits, occasions, text, strict=True)):
        if n >= MIN_OCCASIONS and there >= MIN_OCCASIONS:
            q = min(lift * there / size[i], 1)
            found.append((sum(binom.pmf(j, n, q) for j in range(int(x), int(n) + 1)), i))
    found.sort()
    last = max((i for i, (p, _) in enumerate(found, 1) if p <= share * i / len(found)), default=0)
    for place, (_, i) in enumerate(found):
        out[i] = FAILS if place >= last else HOLDS if held[i] >= 0.2 else IN_PART
    return out


def test_evidence_equals_a_plain_loop(case):
    """Shares are float32 of float64 sums: relative 1e-6."""
    found = evidence(*case)
    hold, lift, rows, text_rows, hits, text_hits, occasions, size = plain(case)
    np.testing.assert_allclose(found.name_hold, hold, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.name_lift, lift, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(found.name_rows, rows)
    np.testing.assert_array_equal(found.name_text_rows, text_rows)
    np.testing.assert_allclose(found.hold, hold.sum(axis=1), rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(found.fired, np.bincount(case.found.feature, minlength=12))
    wide = (np.repeat(array, M) for array in (occasions, size))
    of, sizes = wide
    each = plain_verdicts(hits.ravel(), of, text_hits.ravel(), sizes, hold.ravel())
    np.testing.assert_array_equal(found.name_verdict.ravel(), each)
    every = plain_verdicts(hits.sum(1), occasions, text_hits.sum(1), size, hold.sum(1))
    np.testing.assert_array_equal(found.verdict_together, every)
    for f, row in enumerate(found.name_verdict):
        assert found.verdict[f] == next((v for v in row if v != UNTESTED), UNTESTED)
    assert set(found.name_verdict.ravel()) == {HOLDS, IN_PART, FAILS, UNTESTED}
    kinds = {name: array.dtype for name, array in vars(found).items()}
    assert {name for name, kind in kinds.items() if kind == np.float32} == {
        "name_hold",
        "name_lift",
        "hold",
    }
    assert {name for name, kind in kinds.items() if kind == np.int32} == {
        "name_rows",
        "name_text_rows",
        "fired",
    }
    assert kinds["verdict"] == kinds["verdict_together"] == kinds["name_verdict"] == np.int8


def test_verdicts_equal_a_plain_loop():
    rng = np.random.default_rng(0)
    occasions, size = rng.integers(0, 60, 300), np.full(300, 1000)
    text = rng.integers(0, 700, 300) * (rng.random(300) > 0.1)
    true = np.clip(text / size * rng.choice([0.3, 1, 2, 3], 300), 0, 1)
    hits, held = rng.binomial(occasions, true), rng.random(300)
    found = verdicts(hits, occasions, text, size, held)
    np.testing.assert_array_equal(found, plain_verdicts(hits, occasions, text, size, held))
    assert set(found) == {HOLDS, IN_PART, FAILS, UNTESTED}
    assert not found[(occasions < MIN_OCCASIONS) | (text < MIN_OCCASIONS)].any()


def test_features_that_fire_at_their_names_or_elsewhere_or_at_random_are_told_apart():
    tokens, names = make_text(6000), make_names(60)
    near = at_names(names, tokens)
    rng = np.random.default_rng(4)
    for where, verdict in ((near, HOLDS), (~near, FAILS), (np.ones_like(near), FAILS)):
        chosen = where & (rng.random(where.shape) < 0.2)
        found = evidence(firings_where(tokens, chosen), names, tokens)
        tested = found.name_verdict != UNTESTED
        passed = found.name_verdict[tested] != FAILS
        if verdict == FAILS:  # false discoveries, by chance alone
            assert passed.mean() <= 0.05
        else:
            assert passed.mean() >= 0.85
            np.testing.assert_array_equal(found.verdict_together, HOLDS)
            np.testing.assert_allclose(found.hold, 1.0, atol=1e-6)


def test_a_word_that_one_window_repeats_counts_once():
    """Twelve rows of one window, all at the name: one occasion, which is no evidence."""
    text, place = make_text(LENGTH * 50), np.arange(LENGTH * 50) % LENGTH
    repeated = (text.window == 0) | ((text.window % 4 == 0) & (place == 3))
    token = np.where(repeated, V, text.token)
    tokens = text._replace(token=token, observed=np.ones(len(place), bool))
    names = LayerNames(np.array([[V, V + 1]]), np.zeros(1, np.int8), np.zeros((1, 2), np.float32))
    found = evidence(firings_where(tokens, tokens.window[None] == 0), names, tokens)
    assert (found.hold[0], found.name_rows[0, 0], found.verdict[0]) == (1, LENGTH, UNTESTED)
    spread = tokens._replace(token=np.where(place == 3, V, text.token))
    chosen = (spread.token == V)[None] & (spread.window < LENGTH)
    found = evidence(firings_where(spread, chosen), names, spread)
    assert (found.hold[0], found.name_rows[0, 0], found.verdict[0]) == (1, LENGTH, HOLDS)


def test_names_that_are_all_of_the_text_do_not_hold():
    tokens = make_text(600)
    ids = np.arange(V, dtype=np.int32)[None]
    names = LayerNames(ids, np.zeros(1, np.int8), np.zeros((1, V), np.float32))
    with np.errstate(all="raise"):
        found = evidence(firings_where(tokens, np.ones((1, 600), bool)), names, tokens)
    assert found.hold[0] == pytest.approx(1)
    assert (found.verdict[0], found.verdict_together[0]) == (FAILS, FAILS)


def test_of_a_feature_that_does_not_fire_no_name_is_tested(case):
    _, names, tokens = case
    found = evidence(firings_where(tokens, np.zeros((12, 900), bool)), names, tokens)
    counted = {name: array for name, array in vars(found).items() if name != "name_text_rows"}
    assert not any(array.any() for array in counted.values())


def test_a_name_that_the_text_lacks_is_untested_and_comes_after_tested_ones():
    tokens = make_text(LENGTH * 50)
    ids = np.array([[V + 7, 0, V + 9, 1, NO_NAME]], np.int32)
    expected = np.array([[0.5, 0.4, 0.3, 0.2, 0.0]], np.float32)
    names = LayerNames(ids, np.zeros(1, np.int8), expected)
    chosen = np.isin(tokens.token, [0, 1])[None]
    firings = firings_where(tokens, chosen)
    before = evidence(firings, names, tokens)
    assert before.name_verdict[0].tolist() == [
        UNTESTED,
        HOLDS,
        UNTESTED,
        before.name_verdict[0, 3],
        0,
    ]
    moved, found = ordered_evidence(firings, names, tokens)
    assert moved.ids[0].tolist() == [0, 1, V + 7, V + 9, NO_NAME]
    assert moved.expected[0].tolist() == pytest.approx([0.4, 0.2, 0.5, 0.3, 0])
    assert found.name_verdict[0, 0] == found.verdict[0] == HOLDS
    assert found.name_rows[0].tolist() == before.name_rows[0][[1, 3, 0, 2, 4]].tolist()


def test_a_windows_end_meets_no_name_and_the_padding_of_names_none():
    """The next token of a window's last row is -1, and so is what follows a feature's names."""
    tokens = make_text(LENGTH * 50)
    ids = np.array([[0, NO_NAME, NO_NAME]], np.int32)
    names = LayerNames(ids, np.array([BEFORE], np.int8), np.zeros((1, 3), np.float32))
    found = evidence(firings_where(tokens, tokens.next_token[None] == -1), names, tokens)
    assert not found.name_rows.any() and not found.hold.any()
    assert not found.name_text_rows[0, 1:].any()


def test_masked_rows_count_nowhere(case):
    found, names, tokens = case
    masked = tokens._replace(
        token=np.where(tokens.observed, tokens.token, 0),
        next_token=np.where(tokens.observed, tokens.next_token, 0),
    )
    for one, other in zip(
        vars(evidence(*case)).values(), vars(evidence(found, names, masked)).values(), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def plain_detection(case, columns):
    """Precision, recall, F1 and AUROC of the names in ``columns``, row by row."""
    found, names, tokens = case
    seen, figures = np.flatnonzero(tokens.observed), []
    for f in range(len(names.ids)):
        fires = np.zeros(len(tokens.token), bool)
        fires[found.row[found.feature == f]] = True
        if fires.sum() < 5:
            continue
        own = tokens.token if names.relation[f] == AT else tokens.next_token
        named = np.isin(own, [name for name in names.ids[f, columns(f)] if name != NO_NAME])
        hits = int((named & fires)[seen].sum())
        rank = named[seen][:, None].astype(int) - named[seen][None, :]
        pairs = (fires[seen][:, None]) & (~fires[seen][None, :])
        auroc = np.mean(np.where(rank > 0, 1.0, np.where(rank == 0, 0.5, 0.0))[pairs])
        total = int(named[seen].sum())
        figures.append(
            (hits / max(total, 1), hits / fires.sum(), 2 * hits / (total + fires.sum()), auroc)
        )
    return np.mean(figures, axis=0)


def test_detection_equals_a_plain_loop(case):
    names, found = ordered_evidence(*case)
    moved = Case(case.found, names, case.tokens)
    got = detection(names, found, int(case.tokens.observed.sum()))
    every = plain_detection(moved, lambda _: slice(None))
    tested = found.name_verdict[:, 0] != UNTESTED
    first = plain_detection(moved, lambda f: slice(0, int(tested[f])))
    for part, expected in ((got.names, every), (got.first, first)):
        figures = (part.precision, part.recall, part.f1, part.auroc)
        np.testing.assert_allclose(figures, expected, rtol=1e-6)
    counts = found.fired >= 5
    shown = [(names.relation[f], names.ids[f, 0]) for f in np.flatnonzero(counts & tested)]
    assert got.features == counts.sum() < 12
    assert got.untested == pytest.approx(np.mean(~tested[counts]))
    assert got.distinct_first == pytest.approx(len(set(shown)) / len(shown))
    nothing = [f for f in np.flatnonzero(counts & tested) if found.name_hold[f, 0] == 0]
    assert got.first_holds_nothing == pytest.approx(len(nothing) / counts.sum())
    assert got.name_count == M
    table = detection_table(got)
    assert f"{got.names.f1:.3f}" in table and f"{got.first.f1:.3f}" in table


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
        out["hold1"].append(holds(f, names.ids[f, :1]) * (worth.verdict[f] != UNTESTED))
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
        "in_part": float(np.mean(verdict == IN_PART)),
        "untested": float(np.mean(verdict == UNTESTED)),
        "holds_together": float(np.mean(worth.verdict_together[members] == HOLDS)),
    }


def test_held_equals_a_plain_loop_in_every_group(case):
    found, names, _ = case
    (names, worth), norms = ordered_evidence(*case), np.linspace(0.5, 2, 12)
    case = Case(found, names, case.tokens)
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
        assert values == [0] * 14
