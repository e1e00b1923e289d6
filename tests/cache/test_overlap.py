"""Held-out text that training has: exactly the rows that a slow twin finds, in bounded pieces."""

import sys

import numpy as np
import pytest
from cache_fixtures import make_cache

from vasae_jax.cache import overlap
from vasae_jax.cache.overlap import RUN, Overlap, Text, repeated
from vasae_jax.cli.main import main

MODULE = sys.modules["vasae_jax.cache.overlap"]  # whose name in the package is the function


def text(*documents):
    docs = np.repeat(np.arange(len(documents), dtype=np.int32), [len(d) for d in documents])
    return Text(np.concatenate([np.asarray(d, np.int32) for d in documents]), docs)


def runs_of(found, length):
    """Each run of ``length`` tokens in a document, and its rows."""
    for start in range(len(found.tokens) - length + 1):
        rows = slice(start, start + length)
        if len(set(found.docs[rows].tolist())) == 1:
            yield tuple(found.tokens[rows].tolist()), rows


def slow_twin(heldout, train, length):
    known = {tokens for tokens, _ in runs_of(train, length)}
    found = np.zeros(len(heldout.tokens), np.bool_)
    for tokens, rows in runs_of(heldout, length):
        if tokens in known:
            found[rows] = True
    return found


@pytest.mark.fault
@pytest.mark.parametrize("block", [3, 50, 1000])
@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_rows_are_those_of_the_slow_twin(monkeypatch, block, piece):
    """Three tokens and runs of four: a part of the runs is in both, at every border of pieces."""
    monkeypatch.setattr(MODULE, "RUN", 4)
    monkeypatch.setattr(MODULE, "BLOCK", block)
    rng = np.random.default_rng(0)
    train = text(*(rng.integers(0, 3, size) for size in (30, 2, 9)))
    heldout = text(*(rng.integers(0, 3, size) for size in (40, 3, 25, 60)))

    def pieces():
        for start in range(0, len(train.tokens), piece):
            yield Text(*(column[start : start + piece] for column in train))

    expected = slow_twin(heldout, train, 4)
    assert 0 < expected.sum() < len(expected)
    np.testing.assert_array_equal(repeated(heldout, pieces), expected)


def test_a_run_of_exactly_the_stated_length_is_found_and_a_shorter_one_is_not():
    rng = np.random.default_rng(1)
    shared, first, second = (rng.integers(0, 50_000, 200) for _ in range(3))
    for length, count in ((RUN, RUN), (RUN - 1, 0)):
        heldout = text(np.concatenate([first[:30], shared[:length], second[:30]]))
        train = text(np.concatenate([second, shared[:length], first]))
        found = repeated(heldout, lambda train=train: [train])
        assert np.flatnonzero(found).tolist() == list(range(30, 30 + count))


def test_a_run_ends_with_its_document():
    """What two documents of training have together is in neither of them."""
    tokens = np.random.default_rng(2).integers(0, 50_000, RUN)
    halves = text(tokens[: RUN // 2], tokens[RUN // 2 :])
    assert not repeated(text(tokens), lambda: [halves]).any()
    assert not repeated(halves, lambda: [text(tokens)]).any()


def test_a_short_text_has_no_run():
    assert not repeated(text([1, 2, 3]), lambda: [text([1, 2, 3])]).any()
    assert not repeated(text(range(RUN)), lambda: [text([1])]).any()


def test_the_overlap_of_a_cache_counts_without_the_bos(tmp_path, capsys):
    cache = make_cache(tmp_path, rows=150, heldout=50, layers=(1,), bos=True)
    assert overlap(cache) == Overlap(0, 50 - int((read(cache, "positions") == 0).sum()))
    capsys.readouterr()
    assert main(["cache", "verify", cache.url]) == 0
    assert f"{RUN} tokens that training has" in capsys.readouterr().out


def read(cache, name):
    return cache.column(name, "heldout").read(0, cache.rows("heldout"))
