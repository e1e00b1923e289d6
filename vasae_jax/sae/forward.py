"""x -> x_hat, by either execution, on one device or on this device's part of the features."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from vasae_jax.sae import dense, sparse
from vasae_jax.sae.active import Active, preactivations, select
from vasae_jax.sae.collective import share, sum_parts, sum_parts_of_own_rows
from vasae_jax.sae.params import Params

Execution = Literal["dense", "sparse"]


class Forward(NamedTuple):
    """What a forward pass gives."""

    x_hat: jax.Array
    """[B, d] float32 reconstruction, whole on every device; or of its own rows alone."""
    fired: jax.Array
    """[F] float32, kept rows on which each feature fires (this device's parts)."""


def forward(
    params: Params,
    x: jax.Array,
    k: int,
    pre_bias: float = 0.0,
    execution: Execution = "sparse",
    compute: str = "float32",
    axis: str | None = None,
    keep: jax.Array | None = None,
    rows_axis: str | None = None,
    split_rows: bool = False,
    unit: bool = False,
) -> Forward:
    """Reconstruct rows ``x [B, d]`` float32.

    z = top-k of relu((x - p*b_dec) W_enc^T + b_enc), x_hat = z W_dec + b_dec, p = ``pre_bias``.

    Differentiable in ``params``. ``axis`` names the mesh axis that splits the features,
    ``rows_axis`` the one that splits the rows; ``keep`` [B] float32 are the rows that count as
    fired on, all without it. With ``split_rows`` x_hat is [B / n, d], that of this device's
    n-th of the rows (n devices along ``axis``, a divisor of B). ``unit``: the rows of W_dec keep
    norm 1, and their gradient is only the part that turns them.
    """
    if axis is not None and jax.lax.axis_size(axis) == 1:
        axis = None  # one device has nobody to agree with: no offers, no second sort
    keep = jnp.ones(x.shape[:1], jnp.float32) if keep is None else keep
    # With a factor of 0 a compiler must still compute what it multiplies: it may be infinite.
    b_dec = params["b_dec"]
    shift = pre_bias * share(b_dec, axis) if pre_bias else jnp.zeros_like(b_dec)
    encoder = (params["W_enc"], params["b_enc"])
    dtype = jnp.dtype(compute)
    if execution == "dense":
        part, fired = dense.reconstruct(
            x, shift, *encoder, params["W_dec"], keep, k, dtype, axis, rows_axis, unit
        )
    else:
        active = sparse.encode(x, shift, *encoder, k, dtype, axis, pre_bias == 1.0)
        part = sparse.decode(active.values, active.ids, params["W_dec"], unit)
        fired = _fired(active, keep, params["W_dec"].shape[0])
    if split_rows and axis is not None:
        own = sum_parts_of_own_rows(part, axis, dtype)
        return Forward(own + share(b_dec, axis)[None, :], fired)
    return Forward(sum_parts(part, axis) + b_dec[None, :], fired)


def _fired(active: Active, keep: jax.Array, features: int) -> jax.Array:
    fires = (active.values > 0).astype(jnp.float32) * keep[:, None]
    return jnp.zeros((features,), jnp.float32).at[active.ids].add(fires)


def encode(
    params: Params, x: jax.Array, k: int, pre_bias: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """Active features of rows ``x [B, d]``: values [B, k] float32 >= 0, ids [B, k] int32.

    Largest first, ties by lowest id; a value of 0 means that fewer than k features fire.
    """
    shift = pre_bias * params["b_dec"]
    pre = preactivations(x, shift, params["W_enc"], params["b_enc"], jnp.dtype(jnp.float32))
    active = select(pre, k, None)
    return active.values, active.ids


def decode(params: Params, values: jax.Array, ids: jax.Array) -> jax.Array:
    """x_hat [B, d] float32 from active ``values`` and ``ids`` [B, k]."""
    return sparse.weighted_rows(values, ids, params["W_dec"]) + params["b_dec"][None, :]


def choose_execution(asked: str, platform: str) -> Execution:
    """The execution to use: ``asked``, or by platform where that is ``auto``.

    A TPU's matrix unit finishes all F products before its gathers finish k; elsewhere the
    sparse form does a small part of the work.
    """
    if asked == "auto":
        return "dense" if platform == "tpu" else "sparse"
    return "dense" if asked == "dense" else "sparse"
