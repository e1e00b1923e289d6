"""One threshold in the place of TopK, for formats that have no k.

BatchTopK (Bussmann, Leask and Nanda 2024) trains with the k n largest activations of n rows and
then applies the least of them as a threshold. Here that number is read off training rows of a
finished TopK SAE. It is another activation function: its figures are measured anew.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from vasae_jax.evaluation.run import BATCH
from vasae_jax.sae import Params, encode
from vasae_jax.stream import rows_in_order
from vasae_jax.training.trained import Run

ROWS = 2**16
"""Training rows that the number is read off, at most."""
WIDER = 4
"""Of each row the ``WIDER`` k largest are looked at: more than k of it may be above the number."""


def with_one_threshold(run: Run) -> Run:
    """``run`` with a threshold that lets k features fire on a training row on average.

    Raises:
        UserError: a column of the cache is damaged.
    """
    threshold = one_threshold(run)
    d_sae = run.params["W_dec"].shape[0]
    params: Params = {**run.params, "threshold": jnp.full((d_sae,), threshold, jnp.float32)}
    config = replace(run.config, sae=replace(run.config.sae, k=d_sae))
    return replace(run, params=params, config=config)


def one_threshold(run: Run) -> float:
    """The largest number that k n activations of n unmasked training rows exceed, or 0."""
    data, sae = run.config.data, run.config.sae
    slots = min(WIDER * sae.k, run.params["W_dec"].shape[0])
    program = jax.jit(encode, static_argnames=("k", "pre_bias"))
    parts: list[np.ndarray] = []
    rows = 0
    for batch in rows_in_order(run.cache, data.layer, "train", data.mask, batch=BATCH):
        x = jnp.asarray(batch.x, jnp.float32)
        values, _ = program(run.params, x, k=slots, pre_bias=sae.pre_bias)
        parts.append(np.asarray(values)[batch.keep & (batch.docs >= 0)])
        rows += len(parts[-1])
        if rows >= ROWS:
            break
    found = np.concatenate(parts).reshape(-1)
    fires = int(np.count_nonzero(found))
    if fires <= sae.k * rows:
        return 0.0
    place = len(found) - sae.k * rows - 1
    return float(np.partition(found, place)[place])
