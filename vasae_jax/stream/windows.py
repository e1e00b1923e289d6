"""Which token comes next in a window."""

import numpy as np


def next_tokens(tokens: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The token after each row in its window, -1 at a window's end; int32 [rows]."""
    after = np.full(len(tokens), -1, np.int32)
    goes_on = positions[1:] == positions[:-1] + 1
    after[:-1][goes_on] = tokens[1:][goes_on]
    return after
