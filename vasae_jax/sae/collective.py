"""The few collectives a feature-sharded SAE needs, each with the gradient it should have.

Everything in this room is written for one device's part of the features. ``axis`` is the
name of the mesh axis that splits them, or None where one device holds all. Differentiated
inside ``shard_map`` the loss is one number that every device computes, so a sum over
devices passes its gradient through unchanged, and an input that all devices read sums
theirs: the conjugate pair below.
"""

from functools import partial

import jax


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def sum_parts(x: jax.Array, axis: str | None) -> jax.Array:
    """Sum of every device's ``x``; the gradient reaches each part as it is."""
    return x if axis is None else jax.lax.psum(x, axis)


def _sum_parts_bwd(axis: str | None, _: None, g: jax.Array) -> tuple[jax.Array]:
    return (g,)


sum_parts.defvjp(lambda x, axis: (sum_parts(x, axis), None), _sum_parts_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def share(x: jax.Array, axis: str | None) -> jax.Array:
    """``x`` itself, read by every device; its gradient is the sum of theirs."""
    return x


def _share_bwd(axis: str | None, _: None, g: jax.Array) -> tuple[jax.Array]:
    return (g if axis is None else jax.lax.psum(g, axis),)


share.defvjp(lambda x, axis: (x, None), _share_bwd)
