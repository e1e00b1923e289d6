"""The collectives of a feature-sharded SAE, each with the gradient it should have.

Everything in this room is written for one device's part of the features. ``axis`` is the
name of the mesh axis that splits them, or None where one device holds all. Inside
``shard_map`` every device computes the same loss. So a sum over devices passes its gradient
through unchanged, and the gradient of an input that all devices read is the sum of theirs.
"""

from functools import partial

import jax
import numpy as np


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def sum_parts(x: jax.Array, axis: str | None) -> jax.Array:
    """Sum of every device's ``x``; the gradient reaches each part as it is."""
    return x if axis is None else jax.lax.psum(x, axis)


sum_parts.defvjp(lambda x, axis: (sum_parts(x, axis), None), lambda axis, _, g: (g,))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def replicated_input(x: jax.Array, axis: str | None) -> jax.Array:
    """``x`` itself, read by every device; its gradient is the sum of theirs."""
    return x


replicated_input.defvjp(
    lambda x, axis: (x, None), lambda axis, _, g: (g if axis is None else jax.lax.psum(g, axis),)
)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def sum_parts_scattered(x_BD: jax.Array, axis: str, compute_dtype: np.dtype) -> jax.Array:
    """Sum of every device's ``x_BD``; each of n devices gets its n-th of the rows, [B / n, D].

    The gradient of all rows, gathered as ``compute_dtype``, reaches each part. Against
    :func:`sum_parts` half or less is sent, and what is done with the sum is done once.
    """
    local: jax.Array = jax.lax.psum_scatter(x_BD, axis, scatter_dimension=0, tiled=True)
    return local


def _scattered_bwd(axis: str, compute_dtype: np.dtype, _: None, g: jax.Array) -> tuple[jax.Array]:
    return (jax.lax.all_gather(g.astype(compute_dtype), axis, tiled=True).astype(g.dtype),)


sum_parts_scattered.defvjp(
    lambda x, axis, compute_dtype: (sum_parts_scattered(x, axis, compute_dtype), None),
    _scattered_bwd,
)


def local_rows(x: jax.Array, axis: str) -> jax.Array:
    """The rows of ``x`` [B, ...] that :func:`sum_parts_scattered` leaves on this device."""
    size = x.shape[0] // jax.lax.axis_size(axis)
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(axis) * size, size)
