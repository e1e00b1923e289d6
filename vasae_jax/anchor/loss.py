"""How well rows of the decoder or the encoder point at tokens: the anchor loss and its gradient."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vasae_jax.anchor.search import cosine_topm
from vasae_jax.anchor.whitening import WhitenedAnchors
from vasae_jax.sae.params import row_dots, unit_rows

NEAREST_COUNT = 10
"""Anchors that the soft modes look at (published ablations, arXiv:2606.27941)."""


def alignment_and_grad(
    rows_FD: jax.Array,
    weight_F: jax.Array,
    anchors_AD: jax.Array,
    nearest_FD: jax.Array | None,
    mode: str,
    *,
    target_cosine: float | jax.Array = 1.0,
    unit: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """sum_i weight_i min(s_i, target_cosine), [] float32, and its gradient in the rows, [F, d].

    For ``nearest`` the gradient is written out, since what differentiation makes of a row's
    norm reads the rows four times: with n = |w| and c = <w, a>, d(c/n)/dw = (a - (c/n^2) w) / n.

    Args:
        rows_FD: the rows that are pulled, of the decoder or the encoder.
        weight_F: each feature's weight.
        anchors_AD: unit rows.
        nearest_FD: each feature's nearest anchor where the mode is ``nearest``, else None.
        mode: ``nearest``, ``logsumexp`` or ``softmax``.
        target_cosine: cosine from which a row is no longer pulled (mode ``nearest``).
        unit: whether the rows are known to have norm 1, which saves measuring them.
    """
    if nearest_FD is None:
        return jax.value_and_grad(
            lambda rows: jnp.sum(weight_F * soft_cosine(rows, anchors_AD, mode))
        )(rows_FD)
    inverse_F = jnp.ones_like(weight_F) if unit else _inverse_root(row_dots(rows_FD, rows_FD))
    cosines_F = row_dots(rows_FD, nearest_FD) * inverse_F
    scale_F = jnp.where(cosines_F < target_cosine, weight_F, jnp.zeros_like(weight_F)) * inverse_F
    grad_FD = scale_F[:, None] * nearest_FD - (scale_F * cosines_F * inverse_F)[:, None] * rows_FD
    return _capped_sum(cosines_F, weight_F, target_cosine), grad_FD


def soft_cosine(rows_FD: jax.Array, anchors_AD: jax.Array, mode: str) -> jax.Array:
    """The published ablations over each row's ten nearest anchors, [F].

    With c the ten largest cosines: ``logsumexp`` is log sum exp(c); ``softmax`` is
    sum softmax(c) * c. All rows are searched at every call.
    """
    count = min(NEAREST_COUNT, anchors_AD.shape[0])
    _, ids = cosine_topm(jax.lax.stop_gradient(unit_rows(rows_FD)), anchors_AD, count)
    unit = unit_rows(rows_FD)
    cosines = jnp.stack(
        [jnp.sum(unit * anchors_AD[ids[:, j]], axis=1) for j in range(count)], axis=1
    )
    if mode == "logsumexp":
        return jax.nn.logsumexp(cosines, axis=1)
    return jnp.sum(jax.nn.softmax(cosines, axis=1) * cosines, axis=1)


class NearestDetectors(NamedTuple):
    """Each feature's nearest detector."""

    rows: jax.Array
    """[F, d]"""
    ids: jax.Array
    """[F] int32, its index among all"""


def whitened_alignment_and_grad(
    rows_FD: jax.Array,
    weight_F: jax.Array,
    nearest: NearestDetectors,
    anchors: WhitenedAnchors,
    *,
    target_cosine: float | jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """sum_i weight_i min(s_i, target_cosine), [] float32, and its gradient in the rows, [F, d].

    With S = R R, s_i is the cosine of w R and c R for a feature's row w and its detector c:
    s = w S c / sqrt(w S w  c S c). R is never applied. S is f^2 times the identity plus what the
    r kept directions U have above it, D = (f + above)^2 - f^2, so that a bilinear form needs the
    coordinates w U and c U alone; and ds/dw = (S c - s sqrt(cSc / wSw) S w) / sqrt(wSw cSc) needs
    one more thin product, with the transpose of U. Of the detectors, c U and cSc are looked up.

    Args:
        rows_FD: encoder rows.
        weight_F: each feature's weight.
        nearest: of each feature.
        anchors: all detectors, measured by the layer's covariance.
        target_cosine: cosine from which a row is no longer pulled.
    """
    within_cov = anchors.within_cov
    floor = jnp.square(within_cov.floor)
    above = jnp.square(within_cov.floor + within_cov.above) - floor
    along_FR = jnp.matmul(rows_FD, within_cov.basis, precision=jax.lax.Precision.HIGHEST)
    nearest_along_FR = jnp.asarray(anchors.along)[nearest.ids]
    nearest_inverse_F = jnp.asarray(anchors.inverse)[nearest.ids]

    def form(a: jax.Array, b: jax.Array, a_along: jax.Array, b_along: jax.Array) -> jax.Array:
        return floor * row_dots(a, b) + row_dots(a_along * above[None, :], b_along)

    inverse_F = _inverse_root(form(rows_FD, rows_FD, along_FR, along_FR))
    cosines_F = form(rows_FD, nearest.rows, along_FR, nearest_along_FR) * inverse_F
    cosines_F = cosines_F * nearest_inverse_F
    scale_F = jnp.where(cosines_F < target_cosine, weight_F, jnp.zeros_like(weight_F)) * inverse_F
    towards = (scale_F * nearest_inverse_F)[:, None]
    back = (scale_F * cosines_F * inverse_F)[:, None]
    difference_FR = (towards * nearest_along_FR - back * along_FR) * above[None, :]
    grad_FD = floor * (towards * nearest.rows - back * rows_FD) + jnp.matmul(
        difference_FR, jnp.transpose(within_cov.basis), precision=jax.lax.Precision.HIGHEST
    )
    return _capped_sum(cosines_F, weight_F, target_cosine), grad_FD


def _capped_sum(
    cosines_F: jax.Array, weight_F: jax.Array, target_cosine: float | jax.Array
) -> jax.Array:
    return jnp.sum(weight_F * jnp.minimum(cosines_F, jnp.asarray(target_cosine, jnp.float32)))


def _inverse_root(square: jax.Array) -> jax.Array:
    return jnp.where(square > 0, jax.lax.rsqrt(square), jnp.zeros_like(square))
