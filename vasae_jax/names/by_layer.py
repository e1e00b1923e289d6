"""Layer names: the tokens at which, or before which, a feature is expected to fire.

A feature fires by its encoder. Where a layer puts each token is known (its *layer anchor*, the
mean of its rows), and so is how far rows scatter about it. Let the rows at token t be normal
with mean mu_t and one covariance S for all tokens, as linear discriminant analysis has it. Then
the preactivation of a feature there is normal too,

    m_t = w (mu_t - p b_dec) + b,    s^2 = w S w,

and a feature fires where it exceeds a bar: one number for all features, such that k of them are
expected to; or, in an SAE with thresholds, its own threshold. The activation expected of token t is

    p_t E[pre; pre > bar] = p_t (m_t Phi(z) + s phi(z)),    z = (m_t - bar) / s,

p_t its share of the training rows. A token's expected *share* is that over the sum of all
tokens. Names are ordered by the share less ``LIFT`` times p_t, so that a token that is merely
frequent names nothing. The same is done with the rows that each token follows, and a feature
takes the relation of which more is expected.

So a name comes out of weights, means and counts alone: no activation of the SAE is looked at.
What it is worth is then measured on other rows (:mod:`vasae_jax.evaluation.names.evidence`).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from vasae_jax.anchor.token_means import LayerAnchors
from vasae_jax.dictionary.claims import AT as AT
from vasae_jax.dictionary.claims import BEFORE as BEFORE
from vasae_jax.dictionary.claims import RELATIONS as RELATIONS

LIFT = 3.0
"""How many times its own share of the text a token must hold to be worth a name."""
BLOCK = 256
"""Features worked on at once: BLOCK x V numbers are held, some four times."""
SAMPLE = 512
"""Features at most, evenly spaced, that the bar is found by."""
HALVINGS = 24
"""Steps by which the bar is closed in on."""


class LayerNames(NamedTuple):
    """The m layer names of every feature, best first."""

    ids: np.ndarray
    """int32 [F, m], tokens"""
    relation: np.ndarray
    """int8 [F], AT or BEFORE"""
    expected: np.ndarray
    """float32 [F, m], the share of the feature's activation expected at each"""


class Relation(NamedTuple):
    """What is known of one relation's rows, of all tokens; see :class:`LayerAnchors`."""

    rows: np.ndarray
    """float32 [V, d]"""
    counts: np.ndarray
    """int64 [V]"""
    mean: np.ndarray
    """float32 [d]"""
    within: np.ndarray
    """float32 [d, d]"""


class Tokens(NamedTuple):
    """One relation's seen tokens, on the device."""

    rows: jax.Array
    """float32 [T, d], mean rows less the mean of all"""
    share: jax.Array
    """float32 [T], p_t"""


class Features(NamedTuple):
    """Some features, as they meet one relation's rows."""

    w: jax.Array
    """float32 [n, d], encoder rows"""
    mean: jax.Array
    """float32 [n], preactivation at the mean of all rows"""
    within_cov: jax.Array
    """float32 [n], s"""


def layer_names(
    params: Any, k: int, pre_bias: float, anchors: LayerAnchors, m: int = 10
) -> LayerNames:
    """Name every feature by the layer's own anchors.

    Args:
        params: W_enc [F, d] (feature-major), b_enc [F], b_dec [d]; and threshold [F] where there
            is one.
        k: features that fire on a row, where there is no threshold.
        pre_bias: share of b_dec taken from the input before encoding.
        anchors: of the layer that the SAE was trained on.
        m: names a feature, or fewer: as many as tokens were seen (in the relation with fewer).

    A relation without rows names nothing: where no token follows another, all fire at theirs.
    """
    weights = {name: np.asarray(value, np.float64) for name, value in params.items()}
    parts = [
        Relation(anchors.here, anchors.here_count, anchors.here_mean, anchors.here_within),
        Relation(anchors.next, anchors.next_count, anchors.next_mean, anchors.next_within),
    ]
    parts = [part for part in parts if part.counts.any()]
    m = min(m, *(int(np.count_nonzero(part.counts)) for part in parts))
    found = [_named(weights, k, pre_bias, part, m) for part in parts]
    (ids, shares, worth), (later_ids, later_shares, later_worth) = found[0], found[-1]
    before = later_worth > worth
    return LayerNames(
        np.where(before[:, None], later_ids, ids).astype(np.int32),
        before.astype(np.int8),
        np.where(before[:, None], later_shares, shares).astype(np.float32),
    )


def _named(
    weights: dict[str, np.ndarray],
    k: int,
    pre_bias: float,
    relation: Relation,
    m: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Names of one relation: ids and expected shares [F, m], and their sum of excess [F]."""
    seen = np.flatnonzero(relation.counts > 0)
    share = relation.counts[seen] / relation.counts.sum()
    tokens = Tokens(jnp.asarray(relation.rows[seen]), jnp.asarray(share, jnp.float32))
    features = _meet(weights, pre_bias, relation.mean, relation.within)
    if "threshold" in weights:
        bar = jnp.asarray(np.maximum(weights["threshold"], 0), jnp.float32)
    else:
        bar = jnp.full(len(features.w), find_bar(features, tokens, k))
    parts = [
        _best(
            Features(*(part[at : at + BLOCK] for part in features)),
            tokens,
            bar[at : at + BLOCK],
            m,
        )
        for at in range(0, len(features.w), BLOCK)
    ]
    places, shares = (
        np.concatenate([np.asarray(x) for x in part]) for part in zip(*parts, strict=True)
    )
    excess = np.maximum(shares - LIFT * share[places], 0.0).sum(axis=1)
    return seen[places], shares, excess


def _meet(
    weights: dict[str, np.ndarray], pre_bias: float, mean: np.ndarray, within: np.ndarray
) -> Features:
    w = weights["W_enc"]
    start = w @ (mean - pre_bias * weights["b_dec"]) + weights["b_enc"]
    within_cov = np.sqrt(np.maximum(np.sum((w @ within) * w, axis=1), 1e-12))
    return Features(*(jnp.asarray(part, jnp.float32) for part in (w, start, within_cov)))


def find_bar(features: Features, tokens: Tokens, k: int) -> jax.Array:
    """The preactivation, at least 0, that k of the features are expected to exceed on a row."""
    count = len(features.w)
    step = -(-count // SAMPLE)
    some = Features(*(part[::step] for part in features))
    bar: jax.Array = _bar(some, tokens, jnp.float32(k * len(some.w) / count))
    return bar


@jax.jit
def _bar(features: Features, tokens: Tokens, wanted: jax.Array) -> jax.Array:
    pre = _pre(features, tokens)
    within_cov = features.within_cov[:, None]

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) / 2
        above = jnp.sum(norm.cdf((pre - middle) / within_cov) * tokens.share[None, :])
        return jnp.where(above > wanted, middle, low), jnp.where(above > wanted, high, middle)

    ends = (jnp.zeros((), jnp.float32), jnp.maximum(jnp.max(pre + 6 * within_cov), 0.0))
    low, high = jax.lax.fori_loop(0, HALVINGS, halve, ends)
    bar: jax.Array = (low + high) / 2
    return bar


@partial(jax.jit, static_argnames="m")
def _best(
    features: Features, tokens: Tokens, bar: jax.Array, m: int
) -> tuple[jax.Array, jax.Array]:
    """Places among ``tokens`` and expected shares of the m best names, [n, m] each; bar [n]."""
    pre, within_cov = _pre(features, tokens), features.within_cov[:, None]
    z = (pre - bar[:, None]) / within_cov
    mass = tokens.share[None, :] * jnp.maximum(pre * norm.cdf(z) + within_cov * norm.pdf(z), 0.0)
    share = mass / jnp.maximum(jnp.sum(mass, axis=1, keepdims=True), 1e-30)
    _, places = jax.lax.top_k(share - LIFT * tokens.share[None, :], m)
    return places, jnp.take_along_axis(share, places, axis=1)


def _pre(features: Features, tokens: Tokens) -> jax.Array:
    """m_t, [n, T]."""
    exact = jax.lax.Precision.HIGHEST
    pre: jax.Array = jnp.matmul(features.w, tokens.rows.T, precision=exact)
    return pre + features.mean[:, None]
