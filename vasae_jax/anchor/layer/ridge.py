"""What a token's embedding says about its mean row, and means that lean on it where rows are few.

Over the tokens that occur, weighted by their n rows, a linear map is fitted from centred
embeddings to mean rows by ridge regression. Its strength is ``ridge`` times the mean diagonal of
the weighted Gram matrix.
"""

import numpy as np

from vasae_jax.anchor.layer.means import TOKENS, some_tokens


def ridge_map(
    rows: np.ndarray, counts: np.ndarray, embedding: np.ndarray, ridge: float
) -> np.ndarray:
    """float64 [d, d], which takes an embedding less the mean of all to a token's mean row.

    Args:
        rows: [V, d], each token's mean less the mean of all rows.
        counts: [V].
        embedding: [V, d].
        ridge: see above.
    """
    centre, width = embedding.mean(axis=0, dtype=np.float64), embedding.shape[1]
    gram, cross = np.zeros((2, width, width))
    for ids in some_tokens(counts):
        root = np.sqrt(counts[ids, None])
        given = (embedding[ids] - centre) * root
        gram += given.T @ given
        cross += given.T @ (rows[ids] * root)
    strength = ridge * np.trace(gram) / width
    if strength == 0:  # no rows at all
        return cross
    return np.linalg.solve(gram + strength * np.eye(width), cross)


def lean(
    rows: np.ndarray, counts: np.ndarray, embedding: np.ndarray, linear: np.ndarray, c: float
) -> float:
    """Put (n mean + c predicted) / (n + c) in place of each mean in ``rows``.

    Returns:
        The share of the means, weighted by count, that the map alone explains.
    """
    centre, linear = embedding.mean(axis=0, dtype=np.float64), linear.astype(np.float32)
    missed = total = 0.0
    for start in range(0, len(rows), TOKENS):
        block = slice(start, start + TOKENS)
        count = counts[block, None].astype(np.float64)
        predicted = (embedding[block] - centre).astype(np.float32) @ linear
        missed += float((count * np.square(rows[block] - predicted)).sum())
        total += float((count * np.square(rows[block])).sum())
        rows[block] = (count * rows[block] + c * predicted) / (count + c)
    return 1 - missed / total if total else 0.0
