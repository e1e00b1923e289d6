"""How well decoder rows point at tokens, as something to maximise."""

import jax
import jax.numpy as jnp

from vasae_jax.anchor.topm import cosine_topm
from vasae_jax.sae.params import row_dots, unit_rows

NEAREST_COUNT = 10
"""Anchors that the soft modes look at (published ablations, arXiv:2606.27941)."""


def aligned_and_pull(
    W_dec: jax.Array,
    share: jax.Array,
    anchors: jax.Array,
    rows: jax.Array | None,
    mode: str,
    *,
    enough: float | jax.Array = 1.0,
    unit: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """sum_i share_i min(s_i, enough), [] float32, and its gradient in ``W_dec``, [F, d].

    For ``nearest`` the gradient is written out, since what differentiation makes of a row's
    norm reads W_dec four times: with n = |w| and c = <w, a>, d(c/n)/dw = (a - (c/n^2) w) / n.

    Args:
        W_dec: [F, d]. share: [F], each feature's weight. anchors: [V, d] unit rows.
        rows: [F, d], each feature's nearest anchor where the mode is ``nearest``.
        mode: ``nearest``, ``logsumexp`` or ``softmax``.
        unit: whether the rows of W_dec are known to have norm 1, which saves measuring them.
        enough: cosine from which a row is no longer pulled (mode ``nearest``).
    """
    if rows is None:
        return jax.value_and_grad(lambda W: jnp.sum(share * soft_cosine(W, anchors, mode)))(W_dec)
    inverse = jnp.ones_like(share) if unit else _inverse_norm(W_dec)
    cosine = row_dots(W_dec, rows) * inverse
    scale = jnp.where(cosine < enough, share, jnp.zeros_like(share)) * inverse
    pull = scale[:, None] * rows - (scale * cosine * inverse)[:, None] * W_dec
    return jnp.sum(share * jnp.minimum(cosine, jnp.asarray(enough, jnp.float32))), pull


def _inverse_norm(W: jax.Array) -> jax.Array:
    square = row_dots(W, W)
    return jnp.where(square > 0, jax.lax.rsqrt(square), jnp.zeros_like(square))


def soft_cosine(W_dec: jax.Array, anchors: jax.Array, mode: str) -> jax.Array:
    """The published ablations over each row's ten nearest anchors, [F].

    With c the ten largest cosines: ``logsumexp`` is log sum exp(c); ``softmax`` is
    sum softmax(c) * c. All rows are searched at every call.
    """
    count = min(NEAREST_COUNT, anchors.shape[0])
    _, ids = cosine_topm(jax.lax.stop_gradient(unit_rows(W_dec)), anchors, count)
    unit = unit_rows(W_dec)
    cosines = jnp.stack([jnp.sum(unit * anchors[ids[:, j]], axis=1) for j in range(count)], axis=1)
    if mode == "logsumexp":
        return jax.nn.logsumexp(cosines, axis=1)
    return jnp.sum(jax.nn.softmax(cosines, axis=1) * cosines, axis=1)
