"""How well decoder rows point at tokens, as something to maximise."""

import jax
import jax.numpy as jnp

from vasae_jax.sae.params import unit_rows
from vasae_jax.topm import cosine_topm

NEAREST_COUNT = 10
"""Anchors that the soft modes look at (published ablations, arXiv:2606.27941)."""


def nearest_cosine(W_dec: jax.Array, anchors: jax.Array, near: jax.Array) -> jax.Array:
    """cos(W_dec[i], anchors[near[i]]), [F]; the gradient is a gather, none reaches the anchors.

    Args:
        W_dec: [F, d]. anchors: [V, d] unit rows. near: [F] int32.
    """
    chosen = jax.lax.stop_gradient(anchors[near])
    return jnp.sum(unit_rows(W_dec) * chosen, axis=1)


def soft_cosine(W_dec: jax.Array, anchors: jax.Array, mode: str) -> jax.Array:
    """The published ablations over each row's ten nearest anchors, [F].

    With c the ten largest cosines: ``logsumexp`` is log sum exp(c); ``softmax`` is
    sum softmax(c) * c. All rows are searched at every call.
    """
    count = min(NEAREST_COUNT, anchors.shape[0])
    _, ids = cosine_topm(jax.lax.stop_gradient(unit_rows(W_dec)), anchors, count)
    cosines = jnp.stack([nearest_cosine(W_dec, anchors, ids[:, j]) for j in range(count)], axis=1)
    if mode == "logsumexp":
        return jax.nn.logsumexp(cosines, axis=1)
    return jnp.sum(jax.nn.softmax(cosines, axis=1) * cosines, axis=1)
