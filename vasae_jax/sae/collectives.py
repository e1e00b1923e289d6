"""The few collectives a feature-sharded SAE needs, each with the gradient it should have.

Everything in this room is written for one device's part of the features. ``axis`` is the
name of the mesh axis that splits them, or None where one device holds all. Differentiated
inside ``shard_map`` the loss is one number that every device computes, so a sum over
devices passes its gradient through unchanged, and an input that all devices read sums
theirs: the conjugate pair below.
"""

from functools import partial

import jax
import numpy as np


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def sum_parts(x: jax.Array, axis: str | None) -> jax.Array:
    """Sum of every device's ``x``; the gradient reaches each part as it is."""
    return x if axis is None else jax.lax.psum(x, axis)


def _sum_parts_bwd(axis: str | None, _: None, g: jax.Array) -> tuple[jax.Array]:
    return (g,)


sum_parts.defvjp(lambda x, axis: (sum_parts(x, axis), None), _sum_parts_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def replicated_input(x: jax.Array, axis: str | None) -> jax.Array:
    """``x`` itself, read by every device; its gradient is the sum of theirs."""
    return x


def _share_bwd(axis: str | None, _: None, g: jax.Array) -> tuple[jax.Array]:
    return (g if axis is None else jax.lax.psum(g, axis),)


replicated_input.defvjp(lambda x, axis: (x, None), _share_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def sum_parts_of_own_rows(x: jax.Array, axis: str, compute: np.dtype) -> jax.Array:
    """Sum of every device's ``x`` [B, d] on this device's n-th of the rows, [B / n, d].

    The gradient of all rows, gathered as ``compute``, reaches each part. Against
    :func:`sum_parts` half or less is sent, and what is done with the sum is done once.
    """
    own: jax.Array = jax.lax.psum_scatter(x, axis, scatter_dimension=0, tiled=True)
    return own


def _own_rows_bwd(axis: str, compute: np.dtype, _: None, g: jax.Array) -> tuple[jax.Array]:
    return (jax.lax.all_gather(g.astype(compute), axis, tiled=True).astype(g.dtype),)


sum_parts_of_own_rows.defvjp(
    lambda x, axis, compute: (sum_parts_of_own_rows(x, axis, compute), None), _own_rows_bwd
)


def own_rows(x: jax.Array, axis: str) -> jax.Array:
    """The rows of ``x`` [B, ...] that :func:`sum_parts_of_own_rows` leaves on this device."""
    size = x.shape[0] // jax.lax.axis_size(axis)
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(axis) * size, size)
