"""Logits against a model's own: cross-entropy, KL, and the largest.

All run over [S, T, V] numbers, which takes a good part of the time of a small model's forward pass.
So what is the same for all patches is worked out once, and of a patch nothing of that size is
written but its logits.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Own(NamedTuple):
    """What the untouched model says, worked out once for all patches."""

    logits: jax.Array
    """[S, T, V] float32"""
    shares: jax.Array
    """[S, T, V] float32, the probabilities"""
    log_sum: jax.Array
    """[S, T] float32, log sum exp of the logits"""


@jax.jit
def known(logits: jax.Array) -> Own:
    """Of the model's ``logits`` [S, T, V]."""
    logits = logits.astype(jnp.float32)
    log_sum = _log_sum(logits)
    return Own(logits, jnp.exp(logits - log_sum[..., None]), log_sum)


@jax.jit
def compare(own: Own, other: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of ``other`` and KL(own || other), both float32 [S, T] in nats.

    With p the model's probabilities, KL is sum p (own - other) and the difference of log sums: 0
    where the two are equal, and no log-probabilities are written.

    Args:
        own: what the model says.
        other: the patched model's logits [S, T, V].
        targets: int32 [S, T], next tokens.
    """
    other = other.astype(jnp.float32)
    log_sum = _log_sum(other)
    kl = jnp.sum(own.shares * (own.logits - other), axis=-1) + log_sum - own.log_sum
    return cross_entropy(other, log_sum, targets), kl


@jax.jit
def cross_entropy(logits: jax.Array, log_sum: jax.Array, targets: jax.Array) -> jax.Array:
    """Of ``logits`` [S, T, V] whose log sum exp is ``log_sum`` [S, T], for ``targets``; [S, T]."""
    return log_sum - jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]


def _log_sum(logits: jax.Array) -> jax.Array:
    """log sum exp over the last axis."""
    most = jnp.max(logits, axis=-1)
    return most + jnp.log(jnp.sum(jnp.exp(logits - most[..., None]), axis=-1))


@jax.jit
def largest(logits: jax.Array) -> jax.Array:
    """The first of the largest, int32 [S, T]; XLA on CPU takes four times as long to ``argmax``."""
    ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    none = jnp.full_like(ids, logits.shape[-1])
    there = logits == jnp.max(logits, axis=-1, keepdims=True)
    return jnp.min(jnp.where(there, ids, none), axis=-1)
