"""Input score, output score and matching game, against plain loops in float64 and by hand."""

import json

import jax.numpy as jnp
import lm_fixtures as fx
import numpy as np
import patching_fixtures as pf
import pytest

from vasae_jax.activations import activation_of
from vasae_jax.anchor.layer_anchors import layer_anchors
from vasae_jax.dictionary.claims import AT, BEFORE
from vasae_jax.evaluation.bootstrap import DocumentSums
from vasae_jax.evaluation.patching.model import WindowTable
from vasae_jax.evaluation.run import evaluate_run, run_names
from vasae_jax.evaluation.scores import input_score, matching, measure, steering
from vasae_jax.evaluation.scores.matching import Rounds, credit, draw_rounds
from vasae_jax.evaluation.scores.steering import (
    STEPS,
    TARGETS,
    TOLERANCE,
    Journal,
    Prefixes,
    Steered,
    find_clamp,
    mean_ranks,
    output_score,
    steer_features,
)
from vasae_jax.lm import load_lm
from vasae_jax.names.by_evidence import listed_by_evidence
from vasae_jax.names.by_layer import LayerNames, listed_by_layer
from vasae_jax.names.counts import FiringCounter
from vasae_jax.names.firings import FiringObserver, Firings, RowTokens
from vasae_jax.utils.errors import UserError

ROWS, WINDOW, V, F = 300, 6, 9, 12
D = 48
"""Width of the fixture's model."""


@pytest.fixture(scope="module")
def rows():
    """Rows in windows of six; equal activations, a feature of every row, one that never fires."""
    rng = np.random.default_rng(0)
    token = rng.integers(0, V, ROWS).astype(np.int32)
    window = np.arange(ROWS, dtype=np.int32) // WINDOW
    ends = np.arange(ROWS) % WINDOW == WINDOW - 1
    next_token = np.where(ends, -1, np.roll(token, -1)).astype(np.int32)
    z = rng.integers(0, 4, (ROWS, F)) * (rng.random((ROWS, F)) < np.linspace(0.02, 0.7, F))
    z[:, 0], z[:, 1] = 0, 1
    z[token == 2, 3] = 5
    tokens = RowTokens(window, token, next_token, np.ones(ROWS, bool))
    row, feature = np.nonzero(z)
    firings = Firings(
        feature.astype(np.int32),
        z[row, feature].astype(np.float32),
        token[row],
        next_token[row],
        row,
    )
    return z, tokens, firings


def documents():
    return DocumentSums(np.arange(ROWS, dtype=np.int32) // 60)


# Input score.


def plain_input_score(z, tokens, ids, windows):
    """The definition, feature by feature; NaN where a feature has no score."""
    scores = np.full(F, np.nan)
    for feature in range(F):
        peaks = []
        for window in np.unique(tokens.window):
            of = np.flatnonzero((tokens.window == window) & (z[:, feature] > 0))
            if len(of):
                peaks.append(min(of, key=lambda row: (-z[row, feature], row)))
        if len(peaks) < windows:
            continue
        best = sorted(peaks, key=lambda row: (-z[row, feature], row))[:windows]
        scores[feature] = np.mean([tokens.token[row] in ids[feature] for row in best])
    return scores


@pytest.mark.parametrize("windows", [1, 20, 48])
def test_input_score_equals_the_definition(rows, monkeypatch, windows):
    monkeypatch.setattr(input_score, "WINDOWS", windows)
    z, tokens, firings = rows
    ids = np.random.default_rng(1).permuted(np.tile(np.arange(V), (F, 1)), axis=1)[:, :3]
    peaks = input_score.strongest_windows(firings, tokens.window)
    listed = {"some": input_score.is_listed(ids, peaks.feature, peaks.token)}
    found = input_score.input_scores(peaks, listed, documents())["some"]
    expected = plain_input_score(z, tokens, ids, windows)
    assert set(np.unique(peaks.feature)) == set(np.flatnonzero(~np.isnan(expected)))
    assert found.value == pytest.approx(np.nanmean(expected), rel=1e-12)
    assert windows == 1 or found.low < found.value < found.high


def test_input_score_without_any_feature_is_unknown(rows, monkeypatch):
    monkeypatch.setattr(input_score, "WINDOWS", 51)
    _, tokens, firings = rows
    peaks = input_score.strongest_windows(firings, tokens.window)
    nothing = {"some": np.zeros(len(peaks.row), bool)}
    assert len(peaks.row) == 0
    assert input_score.input_scores(peaks, nothing, documents())["some"].value is None


def test_no_token_is_listed_where_a_list_has_no_name():
    ids = np.array([[-1, 3]])
    zeros = np.zeros(3, int)
    found = input_score.is_listed(ids, zeros, np.array([-1, 3, 0]))
    np.testing.assert_array_equal(found, [False, True, False])


# Lists of names.


def make_counts(rows):
    z, tokens, _ = rows
    counter = FiringCounter(F, V)
    ids = np.tile(np.arange(F), (ROWS, 1))
    for part in (slice(0, 100), slice(100, None)):
        counter.add(z[part], ids[part], tokens.token[part], tokens.next_token[part])
    return counter.counts()


@pytest.mark.parametrize("relation", [AT, BEFORE])
def test_counts_know_the_strongest_row_of_each_pair(rows, relation):
    z, tokens, _ = rows
    of = make_counts(rows).relations[relation]
    related = tokens.token if relation == AT else tokens.next_token
    feature, token = np.divmod(of.pairs, V)
    expected = [z[related == t, f].max() for f, t in zip(feature, token, strict=True)]
    np.testing.assert_array_equal(of.strongest, expected)
    fired = [(z[related == t, f] > 0).sum() for f, t in zip(feature, token, strict=True)]
    np.testing.assert_array_equal(of.fired_at(feature, token), fired)
    assert not of.fired_at(np.array([0, 1]), np.array([3, -1])).any()


def test_lists_are_the_names_filled_up_with_the_next_best(rows):
    counts = make_counts(rows)
    lists = listed_by_evidence(counts, AT, 6)
    assert lists.shape == (F, 6) and (lists[0] == -1).all()
    for feature in range(1, F):
        fired = {
            t for t in range(V) if counts.relations[AT].fired_at(np.array(feature), np.array(t))
        }
        listed = [token for token in lists[feature].tolist() if token >= 0]
        assert len(listed) == len(set(listed)) == min(6, len(fired))
        assert set(listed) <= fired


# The matching game.


def plain_rounds_hold(z, rounds, W_enc):
    """That each round has one feature that fires, and the nearest that do not."""
    unit = W_enc / np.linalg.norm(W_enc, axis=1, keepdims=True)
    for candidates, row in zip(rounds.candidates, rounds.row, strict=True):
        assert z[row, candidates[0]] > 0 and not z[row, candidates[1:]].any()
        cosine = unit @ unit[candidates[0]]
        silent = [f for f in range(F) if z[row, f] == 0 and z[:, f].any()]
        nearest = sorted(silent, key=lambda f: (-cosine[f], f))
        np.testing.assert_array_equal(candidates[1:], nearest[: matching.CANDIDATES - 1])


def test_rounds_have_one_feature_that_fires_and_the_nearest_that_do_not(rows):
    z, _, firings = rows
    W_enc = np.random.default_rng(2).normal(size=(F, 5)).astype(np.float32)
    rounds = draw_rounds(firings, W_enc)
    assert len(rounds.row) > 40
    plain_rounds_hold(z, rounds, W_enc)
    for candidates, row, strong in zip(*rounds, strict=True):
        own = z[z[:, candidates[0]] > 0, candidates[0]]
        assert strong == ((own <= z[row, candidates[0]]).mean() > matching.STRONG)
    for again, first in zip(draw_rounds(firings, W_enc), rounds, strict=True):
        np.testing.assert_array_equal(again, first)


def test_features_with_equal_encoder_rows_are_no_candidates_twice(rows):
    rounds = draw_rounds(rows[2], np.ones((F, 5), np.float32))
    for candidates in rounds.candidates:
        assert len(set(candidates.tolist())) == matching.CANDIDATES
    assert not (rounds.candidates == 0).any()  # feature 0 never fires


def test_nothing_fires_and_there_are_no_rounds():
    none = Firings(*(np.zeros(0, kind) for kind in (int, float, int, int, int)))
    assert draw_rounds(none, np.eye(F, dtype=np.float32)).candidates.shape == (0, 5)


def plain_scores(names, rounds, tokens, embedding):
    scores = np.zeros(rounds.candidates.shape)
    for r, (candidates, row) in enumerate(zip(rounds.candidates, rounds.row, strict=True)):
        for c, feature in enumerate(candidates):
            at = names.relation[feature] == AT
            token = int((tokens.token if at else tokens.next_token)[row])
            own = names.ids[feature].tolist()
            if token >= 0 and token in own:
                scores[r, c] = 1 + len(own) - own.index(token)
            else:
                near = [
                    float(embedding[name].astype(np.float64) @ embedding[token])
                    for name in own
                    if name >= 0 and token >= 0
                ]
                scores[r, c] = max(near, default=-1.0)
    return scores


def test_players_equal_plain_loops(rows):
    z, tokens, firings = rows
    rng = np.random.default_rng(3)
    W_enc = rng.normal(size=(F, 5)).astype(np.float32)
    rounds = draw_rounds(firings, W_enc)
    embedding = rng.normal(size=(V, 4)).astype(np.float32)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    ids = rng.permuted(np.tile(np.arange(V), (F, 1)), axis=1)[:, :3]
    ids[::4, 1:], ids[5] = -1, -1
    names = LayerNames(ids, (np.arange(F) % 2).astype(np.int8), np.zeros(ids.shape))
    found = matching.scores_by_names(names, rounds, tokens, embedding)
    expected = plain_scores(names, rounds, tokens, embedding)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    lift = matching.scores_by_counts(make_counts(rows), rounds, tokens)
    for candidates, row, of in zip(rounds.candidates, rounds.row, lift, strict=True):
        is_token = tokens.token == tokens.token[row]
        share = is_token.mean()
        for feature, value in zip(candidates, of, strict=True):
            fires = z[:, feature] > 0
            hits, fired = (fires & is_token).sum(), fires.sum()
            prior = matching.PRIOR
            assert value == pytest.approx((hits + prior * share) / (fired + prior) / share)


def test_candidates_that_are_equal_share_a_round():
    scores = np.array([[1, 0, 0, 0, 0], [2, 2, 0, 0, 2], [0, 1, 0, 0, 0], [-1, -1, -1, -1, -1]])
    np.testing.assert_allclose(credit(scores), [1, 1 / 3, 0, 1 / 5])


def test_shares_of_rounds_are_of_all_and_of_strong_rows():
    rounds = Rounds(np.zeros((4, 5), int), np.array([0, 60, 120, 180]), np.array([1, 0, 1, 0]) > 0)
    found = matching.matching_figures({"names": np.array([1, 0, 0.5, 1])}, rounds, documents())
    assert found["all"]["names"].value == pytest.approx(2.5 / 4)
    assert found["strong"]["names"].value == pytest.approx(1.5 / 2)


# Output score.


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("start", [1e-3, 1.0, 4e3])
def test_the_clamp_reaches_its_target_whatever_it_begins_at(target, start):
    value, kl, came = find_clamp(lambda value: (0.01 * value**2, value), start, target)
    assert target <= kl <= target + TOLERANCE and came == value


def test_a_target_that_cannot_be_reached_ends():
    seen = []
    jumps = find_clamp(lambda value: (9.0 * (value > 2), seen.append(value)), 1.0, 0.25)
    assert len(seen) == STEPS and jumps[1] in (0.0, 9.0)
    flat = find_clamp(lambda value: (0.0, value), 1.0, 0.25)
    assert flat[1] == 0 and np.isfinite(flat[0])
    undefined = find_clamp(lambda value: (float("nan"), value), 1.0, 0.25)
    assert np.isfinite(undefined[0])


def test_mean_ranks_count_from_the_likeliest_and_ties_go_to_the_lower_id():
    logits = np.array([[0.0, 3, 3, -1], [5, 0, 0, 0]], np.float32)
    np.testing.assert_array_equal(mean_ranks(logits), [1, 0.5, 1.5, 3])


def test_output_score_counts_common_tokens():
    raised = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    listed = np.array([[4, 9, 1, -1, -1], [-1, -1, -1, -1, -1]])
    np.testing.assert_array_equal(output_score(raised, listed), [0.5, 0])


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return pf.make_home(tmp_path_factory.mktemp("home"), fx.llama_config())


@pytest.fixture(scope="module")
def lm(home):
    return load_lm(str(home.directory))


@pytest.fixture
def small(monkeypatch):
    """Sizes for a model of seven windows."""
    monkeypatch.setattr(input_score, "WINDOWS", 2)
    monkeypatch.setattr(measure, "WINDOWS", 2)
    monkeypatch.setattr(steering, "PREFIXES", 3)
    monkeypatch.setattr(steering, "PREFIX_TOKENS", 4)
    monkeypatch.setattr(steering, "TOKENS", 5)
    monkeypatch.setattr(measure, "TOKENS", 5)
    monkeypatch.setattr(measure, "FEATURES", 4)


def softmax(logits):
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def test_clamping_equals_the_definition(home, lm, small, tmp_path):
    """The model run by torch, a window and a feature at a time; the clamp is what was found."""
    run = pf.make_run(home, pf.random_params(D, 20), 4)
    found = steer_features(run, lm, "heldout", [2, 7], np.ones(2), tmp_path)
    table = WindowTable.of(run.cache, run.config.data.input_site, "heldout", run.config.data.mask)
    tokens = table.take(table.sample(3, 4), 3).tokens[:, :4]
    params = {name: np.asarray(value, np.float64) for name, value in run.params.items()}
    for steered in found:
        clean = fx.torch_logits(home.torch_model, tokens)[:, -1].astype(np.float64)
        x = np.asarray(lm.residuals(tokens, (pf.LAYER,)))[0].astype(np.float64)
        pre = x @ params["W_enc"].T + params["b_enc"]
        bar = np.sort(pre, axis=2)[..., -4]
        z = np.where(pre >= bar[..., None], np.maximum(pre, 0), 0)[..., steered.feature]
        rise = np.zeros(fx.VOCAB)
        for alpha, kl, target in zip(steered.clamp, steered.kl, TARGETS, strict=True):
            clamped = x.copy()
            clamped[:, 1:] += (alpha - z[:, 1:, None]) * params["W_dec"][steered.feature]
            logits = np.asarray(lm.continue_from(clamped.astype(np.float32), pf.LAYER))[:, -1]
            p, q = softmax(clean), softmax(logits.astype(np.float64))
            assert kl == pytest.approx((p * np.log(p / q)).sum(axis=1).mean(), rel=1e-3)
            assert target <= kl <= target + TOLERANCE
            rise += mean_ranks(clean) - mean_ranks(logits)
        assert steered.raised == np.argsort(-rise, kind="stable")[:5].tolist()


@pytest.mark.fault
def test_a_stopped_run_goes_on_and_another_run_begins_anew(home, lm, small, tmp_path, monkeypatch):
    run = pf.make_run(home, pf.random_params(D, 20), 4)
    whole = steer_features(run, lm, "heldout", [2, 7, 9], np.ones(3), tmp_path)
    (saved,) = tmp_path.iterdir()
    text = saved.read_text(encoding="utf-8")
    saved.write_text(text[: text.rindex('"kl"')], encoding="utf-8")  # killed in the last line
    done = []
    add = Journal.add
    monkeypatch.setattr(Journal, "add", lambda self, of: (done.append(of.feature), add(self, of)))
    assert steer_features(run, lm, "heldout", [2, 7, 9], np.ones(3), tmp_path) == whole
    assert done == [9] and saved.read_text(encoding="utf-8") == text
    other = pf.make_run(home, pf.random_params(D, 20, seed=1), 4)
    steer_features(other, lm, "heldout", [2], np.ones(1), tmp_path)
    assert done == [9, 2] and saved.read_text(encoding="utf-8") == text


def test_a_window_that_is_too_short_is_refused(home, lm, small, tmp_path, monkeypatch):
    run = pf.make_run(home, pf.random_params(D, 20), 4)
    monkeypatch.setattr(WindowTable, "sample", lambda *_: np.zeros(0, int))
    with pytest.raises(UserError):
        steer_features(run, lm, "heldout", [2], np.ones(1), tmp_path)
    with pytest.raises(UserError):
        Prefixes.of(run, lm, "heldout", [2])


def test_a_feature_off_its_target_says_so():
    assert Steered(1, [], [1.0, 2.0], [0.25, 0.6]).reached
    assert not Steered(1, [], [1.0, 2.0], [0.25, 0.601]).reached
    assert not Steered(1, [], [1.0, 2.0], [float("nan"), 0.5]).reached


def test_lists_by_weights_begin_with_the_names_of_their_relation(home):
    run = pf.make_run(home, pf.random_params(D, 20), 4)
    names, data = run_names(run, by="weights").layer, run.config.data
    anchors = layer_anchors(run.cache, data.input_site, data.skip_positions, data.max_norm)
    for relation, means in ((AT, anchors.at), (BEFORE, anchors.before)):
        lists = listed_by_layer(run.params, activation_of(run.config.sae), 0.0, means, 60)
        mine = names.relation == relation
        m = names.ids.shape[1]
        np.testing.assert_array_equal(lists[mine, :m], names.ids[mine])
        occurring = np.count_nonzero(means.count)
        assert ((lists >= 0).sum(axis=1) == min(60, occurring)).all()


# All of it.


@pytest.mark.parametrize("by", ["evidence", "weights"])
def test_scores_of_a_run(home, lm, small, tmp_path, by):
    run = pf.make_run(home, pf.random_params(D, 20), 4)
    names, observer = run_names(run, by=by), FiringObserver(home.cache, "heldout")
    evaluate_run(run, names, "heldout", observer)
    found = measure.measure_scores(run, names, by, observer, tmp_path, model=lm)
    value = json.loads(json.dumps(found.to_json()))
    assert set(value["input"]["figures"]) == set(measure.INPUT_ROWS)
    assert set(value["output"]["figures"]) == set(measure.OUTPUT_ROWS)
    assert set(value["matching"]["figures"]["all"]) == set(measure.PLAYERS)
    (saved,) = tmp_path.iterdir()
    lines = saved.read_text(encoding="utf-8").splitlines()
    assert value["output"]["features"] == 4 == len(lines) - 1
    for figure in value["input"]["figures"].values():
        assert 0 <= figure["value"] <= 1
    assert "39.3%" in found.table()
    without = measure.measure_scores(run, names, by, observer, tmp_path)
    assert "output" not in without.to_json() and without.input == found.input


def test_rows_that_names_come_from_are_refused():
    with pytest.raises(UserError):
        measure.check_split("train")


def test_dead_features_have_no_scores(home, lm, small, tmp_path):
    params = pf.random_params(D, 20, bias=-1e6)
    run = pf.make_run(home, {**params, "W_dec": jnp.ones((20, D))}, 4)
    names, observer = run_names(run), FiringObserver(home.cache, "heldout")
    evaluate_run(run, names, "heldout", observer)
    found = measure.measure_scores(run, names, "evidence", observer, tmp_path, model=lm)
    assert (found.input.features, found.output.features, found.matching.rounds) == (0, 0, 0)
    figures = [*found.input.figures.values(), *found.output.figures.values()]
    assert all(figure.value is None for figure in figures)
    assert "-" in found.table()
