"""The token that comes next."""

import numpy as np

from vasae_jax.stream.order import next_tokens


def test_next_tokens_end_with_their_window():
    tokens, positions = np.array([5, 6, 7, 8, 9]), np.array([0, 1, 2, 0, 1])
    np.testing.assert_array_equal(next_tokens(tokens, positions), [6, 7, -1, 9, -1])
