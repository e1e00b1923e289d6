"""Features that have long been idle start anew at what the reconstruction lacks.

A feature that fires on no row has no gradient. In each step the few features that have been idle
longest, if for ``optim.resample_after * d_sae`` rows or more, take the directions of the residuals
x - x_hat of as many rows as their encoder and decoder rows, with bias 0 and new moments. This is
the neuron resampling of Bricken et al. 2023, "Towards Monosemanticity", in small portions: there
all dead features are resampled at once, at rows drawn by their squared error. Here the rows are the
first of the batch, whose order is random anyway, so every mesh restarts the same features at the
same rows, and no row is computed twice.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vasae_jax.config import Config
from vasae_jax.distributed.mesh import DATA, MODEL
from vasae_jax.sae import Params, unit_rows
from vasae_jax.sae.params import row_dots

FEATURES_PER_ROW = 2048
"""One feature in this many may start anew in a step."""
MAX_ROWS = 64
"""Features that may start anew in a step, however many there are."""
UNTIL = 0.8
"""Share of the run's steps after which none does: it could not learn any more."""


class Resampling(NamedTuple):
    """When features start anew, compiled into a step."""

    rows: int
    """Features that may do so in a step; 0 where none ever does."""
    idle_steps: int
    """Steps without firing after which a feature may."""
    last_step: int
    """Number of steps after which none does."""


def resampling_of(config: Config, d_sae: int) -> Resampling:
    """The resampling of a run with ``d_sae`` features; none where the decoder is not trained."""
    after, batch, steps = config.optim.resample_after, config.data.batch, config.run.steps
    if not after or config.sae.method == "tied":
        return Resampling(0, 0, 0)
    rows = min(MAX_ROWS, max(1, d_sae // FEATURES_PER_ROW), batch)
    return Resampling(rows, math.ceil(after * d_sae / batch), int(UNTIL * steps))


def first_rows(rows_ND: jax.Array, count: int, *, split: bool) -> jax.Array:
    """The first ``count`` rows of a batch [count, d], on every device; inside shard_map.

    Args:
        rows_ND: the first rows of this device, at most ``count`` of them. Devices lie along
            ``data`` in the order of their rows.
        count: rows wanted, 0 included.
        split: whether each device's rows are split along ``model`` too.
    """
    size = rows_ND.shape[0]
    axes = (DATA, MODEL) if split else (DATA,)
    if not count or all(jax.lax.axis_size(axis) == 1 for axis in axes):
        return rows_ND
    start = jax.lax.axis_index(axes) * size
    index = jnp.arange(count) - start
    local = (index >= 0) & (index < size)
    rows: jax.Array = jax.lax.psum(
        rows_ND[jnp.clip(index, 0, size - 1)] * local[:, None].astype(rows_ND.dtype), axes
    )
    return rows


def resample(
    params: Params, idle: jax.Array, residuals: jax.Array, step: jax.Array, resampling: Resampling
) -> tuple[Params, jax.Array]:
    """Parameters and idle steps after some features start anew; inside shard_map.

    The feature that has been idle longest takes the first residual, and so on; of equally idle
    ones that with the smaller number comes first. The idle steps of a feature that starts anew are
    -1, by which :func:`moments_before` of the next step knows it.

    Args:
        params: of this device's features.
        idle: [F part] int32, steps since each last fired.
        residuals: [n, d], equal on every device; a zero row (a masked one) restarts nothing.
        step: [] int32, number of steps taken before this one.
        resampling: when features start anew.
    """
    ids, ranks = _longest_idle(idle, residuals.shape[0])
    rows = residuals[jnp.minimum(ranks, residuals.shape[0] - 1)]
    chosen = (ranks < residuals.shape[0]) & (idle[ids] >= resampling.idle_steps)
    chosen &= (row_dots(rows, rows) > 0) & (step < resampling.last_step)
    ids = jnp.where(chosen, ids, idle.shape[0])  # out of bounds: dropped below

    def put(array: jax.Array, value: jax.Array | float) -> jax.Array:
        return array.at[ids].set(jnp.asarray(value, array.dtype), mode="drop")

    row = unit_rows(rows)
    new: dict[str, jax.Array | float] = {"W_enc": row, "W_dec": row, "b_enc": 0.0}
    params = params | {name: put(params[name], value) for name, value in new.items()}
    return params, put(idle, -1)


def moments_before(moments: Any, idle: jax.Array) -> Any:
    """Adam's state with zeros for the features that started anew in the step before.

    Zeros are not written in that step: XLA would copy the moments, which it has yet to read.
    """
    old = idle >= 0

    def zeroed(moment: Params) -> Params:
        kept = {
            name: jnp.where(old.reshape(-1, *[1] * (moment[name].ndim - 1)), moment[name], 0.0)
            for name in ("W_enc", "W_dec", "b_enc")
        }
        return moment | kept

    return moments._replace(mu=zeroed(moments.mu), nu=zeroed(moments.nu))


def _longest_idle(idle: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Ids [n] of this device's longest idle features, and the rank [n] of each among all devices'.

    Features of rank below ``count`` are the ``count`` longest idle of all.
    """
    size = min(count, idle.shape[0])
    longest, ids = jax.lax.top_k(idle, size)
    if jax.lax.axis_size(MODEL) == 1:
        return ids, jnp.arange(size)
    candidates = jax.lax.all_gather(longest, MODEL, tiled=True)
    order = jnp.argsort(-candidates, stable=True)
    ranks = jnp.zeros_like(order).at[order].set(jnp.arange(order.shape[0]))
    return ids, jax.lax.dynamic_slice_in_dim(ranks, jax.lax.axis_index(MODEL) * size, size)
