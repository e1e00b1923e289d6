"""How well decoder rows point at tokens, as something to maximise."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vasae_jax.anchor.search import cosine_topm
from vasae_jax.anchor.whitening import WhitenedAnchors, WithinCov
from vasae_jax.sae.params import row_dots, unit_rows

# The pull of encoder rows towards detectors, by how a layer's rows scatter.


class Nearest(NamedTuple):
    """Each feature's nearest detector."""

    rows: jax.Array
    """[F, d]"""
    ids: jax.Array
    """[F] int32, its place among all"""


def whitened_pull(
    W_enc: jax.Array,
    share: jax.Array,
    nearest: Nearest,
    anchors: WhitenedAnchors,
    *,
    target_cosine: float | jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """sum_i share_i min(s_i, target_cosine), [] float32, and its gradient in ``W_enc``, [F, d].

    With S = R R, s_i is the cosine of w R and c R for a feature's row w and its detector c:
    s = w S c / sqrt(w S w  c S c). R is never applied. S is f^2 times the identity plus what the
    r kept directions U have above it, D = (f + above)^2 - f^2, so that a bilinear form needs the
    coordinates w U and c U alone; and ds/dw = (S c - s sqrt(cSc / wSw) S w) / sqrt(wSw cSc) needs
    one more thin product, with the transpose of U. Of the detectors, c U and cSc are looked up.

    Args:
        W_enc: [F, d]. share: [F], each feature's weight.
        nearest: of each feature.
        anchors: all detectors, by the layer's scatter.
        target_cosine: cosine from which a row is no longer pulled.
    """
    within_cov, rows = anchors.within_cov, nearest.rows
    floor = jnp.square(within_cov.floor)
    above = jnp.square(within_cov.floor + within_cov.above) - floor
    along, along_rows = _along(W_enc, within_cov), jnp.asarray(anchors.along)[nearest.ids]
    inverse_rows = jnp.asarray(anchors.inverse)[nearest.ids]

    def form(a: jax.Array, b: jax.Array, a_along: jax.Array, b_along: jax.Array) -> jax.Array:
        return floor * row_dots(a, b) + row_dots(a_along * above[None, :], b_along)

    inverse = _inverse_root(form(W_enc, W_enc, along, along))
    cosine = form(W_enc, rows, along, along_rows) * inverse * inverse_rows
    scale = jnp.where(cosine < target_cosine, share, jnp.zeros_like(share)) * inverse
    towards, back = (scale * inverse_rows)[:, None], (scale * cosine * inverse)[:, None]
    difference = (towards * along_rows - back * along) * above[None, :]
    pull = floor * (towards * rows - back * W_enc) + jnp.matmul(
        difference, jnp.transpose(within_cov.basis), precision=jax.lax.Precision.HIGHEST
    )
    return jnp.sum(share * jnp.minimum(cosine, jnp.asarray(target_cosine, jnp.float32))), pull


def _along(rows: jax.Array, within_cov: WithinCov) -> jax.Array:
    """[F, r], the coordinates of ``rows`` in the kept directions."""
    product: jax.Array = jnp.matmul(rows, within_cov.basis, precision=jax.lax.Precision.HIGHEST)
    return product


def _inverse_root(square: jax.Array) -> jax.Array:
    return jnp.where(square > 0, jax.lax.rsqrt(square), jnp.zeros_like(square))


NEAREST_COUNT = 10
"""Anchors that the soft modes look at (published ablations, arXiv:2606.27941)."""


def aligned_and_pull(
    W_dec: jax.Array,
    share: jax.Array,
    anchors: jax.Array,
    rows: jax.Array | None,
    mode: str,
    *,
    target_cosine: float | jax.Array = 1.0,
    unit: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """sum_i share_i min(s_i, target_cosine), [] float32, and its gradient in ``W_dec``, [F, d].

    For ``nearest`` the gradient is written out, since what differentiation makes of a row's
    norm reads W_dec four times: with n = |w| and c = <w, a>, d(c/n)/dw = (a - (c/n^2) w) / n.

    Args:
        W_dec: [F, d]. share: [F], each feature's weight. anchors: [V, d] unit rows.
        rows: [F, d], each feature's nearest anchor where the mode is ``nearest``.
        mode: ``nearest``, ``logsumexp`` or ``softmax``.
        unit: whether the rows of W_dec are known to have norm 1, which saves measuring them.
        target_cosine: cosine from which a row is no longer pulled (mode ``nearest``).
    """
    if rows is None:
        return jax.value_and_grad(lambda W: jnp.sum(share * soft_cosine(W, anchors, mode)))(W_dec)
    inverse = jnp.ones_like(share) if unit else _inverse_norm(W_dec)
    cosine = row_dots(W_dec, rows) * inverse
    scale = jnp.where(cosine < target_cosine, share, jnp.zeros_like(share)) * inverse
    pull = scale[:, None] * rows - (scale * cosine * inverse)[:, None] * W_dec
    return jnp.sum(share * jnp.minimum(cosine, jnp.asarray(target_cosine, jnp.float32))), pull


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
