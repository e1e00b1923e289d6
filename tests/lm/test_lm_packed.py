"""Several windows in one row of tokens: each has the rows that it has alone."""

import lm_fixtures as fx
import numpy as np
import pytest
from test_lm_parity import CONFIGS, relative

from vasae_jax.lm import load_lm
from vasae_jax.utils.errors import UserError

ROUNDING = 1e-6
"""Sums over masked keys may be added in another order, no more."""


def packed(cuts, length, vocabulary):
    """Tokens and positions [S, T] of rows cut into windows of those lengths; the rest is 0."""
    tokens, positions = np.zeros((2, len(cuts), length), np.int32)
    for row, lengths in enumerate(cuts):
        total = sum(lengths)
        tokens[row, :total] = fx.random_tokens((1, total), vocabulary, seed=row)[0]
        positions[row, :total] = np.concatenate([np.arange(n) for n in lengths])
    return tokens, positions


def assert_as_alone(lm, cuts, length):
    tokens, positions = packed(cuts, length, lm.spec.vocab_size)
    layers = range(lm.spec.n_layers)
    rows = np.asarray(lm.residuals(tokens, layers, positions))
    for row, lengths in enumerate(cuts):
        start = 0
        for n in lengths:
            alone = np.zeros((1, length), np.int32)
            alone[0, :n] = tokens[row, start : start + n]
            expected = np.asarray(lm.residuals(alone, layers))[:, 0, :n]
            assert relative(rows[:, row, start : start + n], expected).max() <= ROUNDING
            start += n


@pytest.mark.parametrize("name", ["gpt2", "llama-untied", "gemma3", "neox"])
def test_windows_in_a_row_do_not_see_each_other(tmp_path, name):
    lm = load_lm(fx.save_model(fx.random_model(CONFIGS[name]), tmp_path))
    assert_as_alone(lm, [(7, 5, 8), (20,), (3, 2)], 20)


def test_nor_do_they_where_queries_attend_in_blocks(tmp_path):
    config = fx.llama_config(max_position_embeddings=700, num_hidden_layers=1)
    lm = load_lm(fx.save_model(fx.random_model(config), tmp_path))
    assert_as_alone(lm, [(500, 150), (30, 620)], 650)


@pytest.mark.fault
@pytest.mark.parametrize("wrong", [np.zeros((1, 3), int), np.array([[1, 2, 3, 4]])])
def test_positions_that_do_not_fit_are_refused(tmp_path, wrong):
    lm = load_lm(fx.save_model(fx.random_model(CONFIGS["gpt2"]), tmp_path))
    with pytest.raises(UserError, match="positions"):
        lm.residuals(np.ones((1, 4), int), (0,), wrong)
