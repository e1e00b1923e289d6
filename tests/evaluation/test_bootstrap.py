"""Sums by document, weighted, against all rows repeated as the weights say, in float64."""

from typing import NamedTuple

import numpy as np
import pytest

from vasae_jax.dictionary.claims import AT
from vasae_jax.evaluation import bootstrap
from vasae_jax.evaluation.bootstrap import (
    DRAWS,
    DocumentSums,
    Figure,
    NameSums,
    draw_weights,
    figures,
)
from vasae_jax.names.by_layer import LayerNames
from vasae_jax.names.firings import Firings

ROWS, D, F, V, M, DOCUMENTS = 240, 5, 9, 12, 3, 6
WEIGHTS = np.array([[1, 1, 1, 1, 1, 1], [0, 2, 0, 3, 1, 0], [6, 0, 0, 0, 0, 0]], np.float64)


class Batch(NamedTuple):
    x: np.ndarray
    keep: np.ndarray
    docs: np.ndarray


@pytest.fixture(scope="module")
def rows():
    """Rows far from the origin, of documents whose numbers are far apart; some masked."""
    rng = np.random.default_rng(0)
    docs = (1_000_000 + 7 * rng.permutation(np.arange(ROWS) % DOCUMENTS)).astype(np.int32)
    x = (rng.normal(size=(ROWS, D)) + 300 + docs[:, None] % 5).astype(np.float32)
    error, token_error = rng.gamma(2, size=(2, ROWS)).astype(np.float32).astype(np.float64)
    return x, rng.random(ROWS) > 0.2, docs, error, token_error


def repeated(docs, weights):
    """Indices of rows, each as often as its document's weight."""
    number = np.unique(docs, return_inverse=True)[1]
    return np.repeat(np.arange(len(docs)), weights[number].astype(int))


def sums_of(rows, size, token_errors=True):
    x, keep, docs, error, token_error = rows
    sums = DocumentSums(docs)
    for start in range(0, ROWS, size):
        part = slice(start, start + size)
        batch = Batch(x[part], keep[part], docs[part])
        sums.add(batch, keep[part], error[part], token_error[part] if token_errors else None)
    return sums


@pytest.mark.parametrize("size", [7, 64, ROWS])
def test_variance_explained_is_that_of_the_repeated_rows(rows, size):
    x, keep, docs, error, token_error = rows
    found = sums_of(rows, size).explained(WEIGHTS)
    for number, weights in enumerate(WEIGHTS):
        chosen = repeated(docs, weights)
        chosen = chosen[keep[chosen]]
        wide = x[chosen].astype(np.float64)
        spread, left = np.square(wide - wide.mean(axis=0)).sum(), token_error[chosen].sum()
        expected = 1 - error[chosen].sum() / spread
        assert found["variance_explained"][number] == pytest.approx(expected, rel=1e-6)
        expected = 1 - error[chosen].sum() / left
        within = found["variance_explained_within_tokens"][number]
        assert within == pytest.approx(expected, rel=1e-6)


def test_without_token_means_their_figure_is_undefined(rows):
    found = figures(sums_of(rows, 64, token_errors=False).explained, DOCUMENTS)
    assert found["variance_explained_within_tokens"] == Figure(None, None, None)
    assert found["variance_explained"].low is not None


def some_firings(docs):
    """Features that fire on a third of the rows, but the last, which never does."""
    rng = np.random.default_rng(1)
    feature, row = np.nonzero(rng.random((F - 1, ROWS)) < 0.3)
    feature, row = (np.r_[part, 0] for part in (feature, row))
    docs_number = np.unique(docs, return_inverse=True)[1]
    only_first = (feature == 0) & (docs_number[row] != 0)  # feature 0 fires in one document alone
    feature, row = feature[~only_first], row[~only_first]
    token, following = rng.integers(-1, V, (2, ROWS)).astype(np.int32)
    activation = rng.gamma(2, size=len(row)).astype(np.float32)
    firings = Firings(feature, activation, np.maximum(token, 0)[row], following[row], row)
    ids = np.stack([rng.permutation(V)[:M] for _ in range(F)]).astype(np.int32)
    ids[2, 1:] = -1  # fewer names than the others have
    ids[3] = -1  # none at all
    relation = (np.arange(F) % 2).astype(np.int8)
    return firings, LayerNames(ids, relation, np.zeros(ids.shape, np.float32))


def plain_figures(firings, names, norms, chosen, fires):
    """The figures over the rows ``chosen``; feature by feature, name by name."""
    count = np.bincount(chosen, minlength=ROWS)[firings.row]

    def held(f, ids):
        tokens = firings.token if names.relation[f] == AT else firings.next_token
        mine = (firings.feature == f) * count * firings.activation.astype(np.float64)
        known = [token for token in ids if token >= 0]
        return mine[np.isin(tokens, known)].sum(), mine.sum()

    live = [f for f in range(F) if held(f, [])[1] > 0]
    first, ten, shuffled, mass, whole = [], [], [], 0.0, 0.0
    for f in live:
        part, total = held(f, names.ids[f])
        first.append(held(f, names.ids[f][:1])[0] / total)
        ten.append(part / total)
        mass, whole = mass + norms[f] * part, whole + norms[f] * total
        others = [held(f, names.ids[g])[0] / total for g in fires if g != f]
        shuffled.append(np.sum(others) / (len(fires) - 1))
    return {
        "dead": 1 - len(live) / F,
        "hold1": np.mean(first),
        "hold10": np.mean(ten),
        "hold10_dead_as_0": np.sum(ten) / F,
        "mass10": mass / whole,
        "shuffled10": np.mean(shuffled),
    }


def test_figures_of_names_are_those_of_the_repeated_firings(rows):
    docs = rows[2]
    firings, names = some_firings(docs)
    norms, fires = np.linspace(0.5, 2, F), np.unique(firings.feature)
    found = NameSums(firings, names, norms, DocumentSums(docs)).measure(WEIGHTS)
    for number, weights in enumerate(WEIGHTS):
        expected = plain_figures(firings, names, norms, repeated(docs, weights), fires)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name][number] == pytest.approx(value, rel=1e-9), name
    assert found["dead"][1] > found["dead"][0] == pytest.approx(1 / F)


def test_nothing_that_fires_has_no_figures_but_of_death(rows):
    docs = rows[2]
    firings, names = some_firings(docs)
    nothing = NameSums(firings.of(np.zeros(F, bool)), names, np.ones(F), DocumentSums(docs))
    found = figures(nothing.measure, DOCUMENTS)
    assert found["dead"] == Figure(1.0, None, None)
    assert found["hold10_dead_as_0"] == Figure(0.0, None, None)
    for name in ("hold1", "hold10", "mass10", "shuffled10"):
        assert found[name] == Figure(None, None, None)


def test_draws_are_of_as_many_documents_and_the_same_every_time():
    weights = draw_weights(DOCUMENTS)
    assert weights.shape == (DRAWS, DOCUMENTS) and (weights.sum(axis=1) == DOCUMENTS).all()
    assert 0.6 < np.mean(weights > 0) < 0.7  # 1 - (5 / 6)^6 = 0.665
    np.testing.assert_array_equal(weights, draw_weights(DOCUMENTS))


def test_an_interval_of_a_mean_is_that_of_its_standard_error():
    values = np.random.default_rng(2).normal(3, 2, 200)
    found = figures(lambda weights: {"mean": weights @ values / 200}, 200)["mean"]
    error = values.std() / np.sqrt(200)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.3 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.3 * error)


def test_the_shift_of_the_draws_is_taken_off():
    """Of as many documents as there are, a draw has 63%: their number always looks too small."""
    found = figures(lambda weights: {"seen": np.count_nonzero(weights, axis=1) / 40.0}, 40)["seen"]
    assert found.value == 1 and found.low < 1 < found.high


def test_many_documents_are_drawn_in_groups(rows, monkeypatch):
    """Documents 0 and 4 together, and 1 and 5: their weights are those of their group."""
    monkeypatch.setattr(bootstrap, "GROUPS", 4)
    firings, names = some_firings(rows[2])
    sums = sums_of(rows, 64)
    assert (len(sums), len(sums.documents)) == (4, DOCUMENTS)
    grouped = np.array([[1, 1, 1, 1], [0, 2, 3, 0], [1, 0, 0, 4]], np.float64)
    found = sums.explained(grouped) | NameSums(firings, names, np.ones(F), sums).measure(grouped)
    monkeypatch.undo()
    sums, weights = sums_of(rows, 64), np.concatenate([grouped, grouped[:, :2]], axis=1)
    expected = sums.explained(weights) | NameSums(firings, names, np.ones(F), sums).measure(weights)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, err_msg=name)


def test_one_document_has_no_interval():
    found = figures(lambda weights: {"rows": weights @ np.ones(1)}, 1)
    assert found == {"rows": Figure(1.0, None, None)}
