"""An observer's names, which tools/ceiling.py compares layer names with, against a plain loop."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from vasae_jax.names.firings import Firings, RowTokens

TOOL = Path(__file__).parents[2] / "tools/ceiling.py"
V, F, M = 17, 11, 4


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("ceiling_tool", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def observe(rows=700, seed=0):
    """A text in which each seventh row was not watched, and features that like some tokens."""
    rng = np.random.default_rng(seed)
    at = (rng.integers(0, V + 1, rows) * rng.random(rows)).astype(np.int32)
    window = (np.arange(rows) // 10).astype(np.int32)
    before = np.where(np.r_[window[1:] == window[:-1], False], np.roll(at, -1), -1)
    row_tokens = RowTokens(window, at, before.astype(np.int32), np.arange(rows) % 7 > 0)
    liking = rng.random((F - 1, V)) ** 6  # the last feature never fires
    liked = np.where((np.arange(F - 1) % 2 == 0)[:, None], at, before)
    chosen = rng.random((F - 1, rows)) < np.take_along_axis(liking, liked, axis=1)
    feature, row = np.nonzero(chosen & row_tokens.observed)
    activation = rng.gamma(2, size=len(row)).astype(np.float32)
    return Firings(feature, activation, at[row], row_tokens.next_token[row], row), row_tokens


def plain(firings, tokens, lift=3.0):
    """Each feature's excess and shares [V] in both relations, token by token."""
    excess, share = np.zeros((2, F, V)), np.zeros((2, F, V))
    for relation, (own, text) in enumerate(
        ((firings.token, tokens.token), (firings.next_token, tokens.next_token))
    ):
        for f in range(F):
            mine = firings.feature == f
            total = firings.activation[mine].sum(dtype=np.float64)
            for t in range(V):
                name_scores = firings.activation[mine & (own == t)].sum(dtype=np.float64)
                share[relation, f, t] = name_scores / total if total else 0
                known = text[tokens.observed]
                rate = np.sum(known == t) / np.sum(known >= 0)
                excess[relation, f, t] = share[relation, f, t] - lift * rate
    return excess, share


@pytest.mark.parametrize("block", [3, 256])
def test_observed_names_equal_a_plain_loop(monkeypatch, tool, block):
    monkeypatch.setattr(tool, "BLOCK", block)
    firings, tokens = observe()
    names = tool.observed_names(firings, tokens, F, M)
    excess, share = plain(firings, tokens)
    for f in range(F):
        best = np.argsort(-excess[:, f], axis=1)[:, :M]
        worth = [np.maximum(excess[r, f, best[r]], 0).sum() for r in (0, 1)]
        relation = int(worth[1] > worth[0])
        assert names.relation[f] == relation
        np.testing.assert_allclose(names.expected[f], share[relation, f, names.ids[f]], rtol=1e-5)
        np.testing.assert_allclose(
            excess[relation, f, names.ids[f]], excess[relation, f, best[relation]], atol=1e-9
        )
    assert set(names.relation[: F - 1]) == {0, 1}


def test_names_are_as_many_as_there_are_tokens(tool):
    assert tool.observed_names(*observe(), F, 100).ids.shape == (F, V)
