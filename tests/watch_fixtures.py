"""What fires over a split, watched as the program does and by a plain loop in float64."""

import numpy as np
import reference

from vasae_jax.evaluation.evaluate import evaluate_rows as evaluate
from vasae_jax.names.firings import FiringObserver
from vasae_jax.stream.source import rows_in_order


def observe_split(params, cache, config, split="heldout"):
    """A watch of every row of ``split``."""
    observer, data = FiringObserver(cache, split, 10**6), config.data
    batches = rows_in_order(cache, data.layer, split, data.mask, batch=64)
    evaluate(params, config.sae, batches, (), split=split, observe=observer)
    return observer


def plain_firings(params, cache, config, split="heldout"):
    """(row, feature, activation, token, following) of each firing, row by row.

    Rows are masked by position alone: max_norm is 0.
    """
    data, sae, count = config.data, config.sae, cache.rows(split)
    assert data.max_norm == 0
    x = cache.acts(data.layer, split).read(0, count).astype(np.float64)
    tokens = cache.column("tokens", split).read(0, count)
    positions = cache.column("positions", split).read(0, count)
    wide = {name: np.asarray(value, np.float64) for name, value in params.items()}
    _, z, _ = reference.forward(wide, x, sae.k, sae.pre_bias)
    found = []
    for row in range(count):
        goes_on = row + 1 < count and positions[row + 1] == positions[row] + 1
        following = tokens[row + 1] if goes_on else -1
        if positions[row] >= data.skip_positions:
            for feature in np.flatnonzero(z[row] > 0):
                found.append((row, feature, z[row, feature], tokens[row], following))
    return found
