"""Names by layer: the tokens at which, or before which, a feature is expected to fire.

A feature fires by its encoder. Where a layer puts each token is known (its *layer anchor*, the
mean of its rows), and so is the covariance of rows about that mean. Take the rows at token t to be
normal with mean mu_t and one covariance S for all tokens, as linear discriminant analysis does.
Then the preactivation of a feature there is normal too,

    m_t = w (mu_t - p b_dec) + b,    s^2 = w S w,

and a feature fires where it exceeds a threshold: one number for all features, at which k of them
are expected to fire; or the SAE's own thresholds, where it has them. The activation expected of
token t is

    p_t E[pre; pre > threshold] = p_t (m_t Phi(z) + s phi(z)),    z = (m_t - threshold) / s,

p_t its share of the training rows. A token's expected *share* is that over the sum of all
tokens. Names are ordered by the share less ``LIFT`` times p_t: a token that is merely frequent is
no name. The same is done with the rows before each token, and a feature takes the relation, at or
before, of which more is expected.

Such a name needs weights, means and counts alone, and no activation of the SAE. How well it does is
then measured on other rows (:mod:`vasae_jax.names.evidence`).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from vasae_jax.activations import Activation
from vasae_jax.anchor.token_means import LayerAnchors, TokenMeans
from vasae_jax.dictionary.claims import NO_NAME

LIFT = 3.0
"""How many times its own share of the text a token must hold to count as a name."""
BLOCK = 256
"""Features worked on at once: BLOCK x V numbers are held, some four times."""
SAMPLE = 512
"""Features at most, evenly spaced, from which the common threshold is found."""
HALVINGS = 24
"""Steps of the bisection that finds it."""


class LayerNames(NamedTuple):
    """The m layer names of every feature, best first."""

    ids: np.ndarray
    """int32 [F, m], tokens"""
    relation: np.ndarray
    """int8 [F], AT or BEFORE"""
    expected: np.ndarray
    """float32 [F, m], the share of the feature's activation expected at (or before) each"""


class Tokens(NamedTuple):
    """The tokens that occur in one relation, on the device."""

    rows: jax.Array
    """float32 [T, d], mean rows less the mean of all"""
    share: jax.Array
    """float32 [T], p_t"""


class Features(NamedTuple):
    """Some features, and their preactivations on the rows of one relation."""

    w: jax.Array
    """float32 [n, d], encoder rows"""
    mean: jax.Array
    """float32 [n], preactivation at the mean of all rows"""
    std: jax.Array
    """float32 [n], s"""


def layer_names(
    params: Any, activation: Activation, pre_bias: float, anchors: LayerAnchors, m: int = 10
) -> LayerNames:
    """Name every feature by the layer's own anchors.

    Args:
        params: W_enc [F, d] (feature-major), b_enc [F], b_dec [d], and those that the activation
            adds.
        activation: which features fire.
        pre_bias: share of b_dec taken from the input before encoding.
        anchors: of the layer that the SAE was trained on.
        m: names a feature, or fewer: as many as tokens occur (in the relation with fewer).

    A relation without rows gives no names: where no token follows another, all fire at theirs.
    """
    weights = _float64(params)
    relations = [means for means in (anchors.at, anchors.before) if means.count.any()]
    m = min(m, *(int(np.count_nonzero(means.count)) for means in relations))
    names = [_relation_names(weights, activation, pre_bias, means, m) for means in relations]
    return better_relation(names[0], names[-1])


def listed_by_layer(
    params: Any, activation: Activation, pre_bias: float, means: TokenMeans, m: int
) -> np.ndarray:
    """The ``m`` best tokens of each feature in the relation of ``means``, int64 [F, m].

    Arguments as :func:`layer_names` takes them. Where fewer tokens occur, NO_NAME stands after the
    last.
    """
    occurring = int(np.count_nonzero(means.count))
    if not occurring:
        return np.full((len(params["W_enc"]), m), NO_NAME)
    best = min(m, occurring)
    ids, *_ = _relation_names(_float64(params), activation, pre_bias, means, best)
    return np.pad(ids, ((0, 0), (0, m - best)), constant_values=NO_NAME)


def _float64(params: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(value, np.float64) for name, value in params.items()}


RelationNames = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Names in one relation: ids and shares [F, m], and the sum of what shares exceed [F]."""


def better_relation(at: RelationNames, before: RelationNames) -> LayerNames:
    """Each feature's names in the relation whose shares exceed more; AT where they are equal."""
    chosen = before[2] > at[2]
    ids, shares = (np.where(chosen[:, None], before[i], at[i]) for i in (0, 1))
    return LayerNames(ids.astype(np.int32), chosen.astype(np.int8), shares.astype(np.float32))


def _relation_names(
    weights: dict[str, np.ndarray],
    activation: Activation,
    pre_bias: float,
    means: TokenMeans,
    m: int,
) -> RelationNames:
    """The names of one relation, with the shares that are expected."""
    occurs = np.flatnonzero(means.count > 0)
    share = means.count[occurs] / means.count.sum()
    tokens = Tokens(jnp.asarray(means.rows[occurs]), jnp.asarray(share, jnp.float32))
    features = preactivations(weights, pre_bias, means)
    d_sae = len(features.w)
    bar = activation.threshold(weights, d_sae)
    if bar is None:
        k = activation.max_active(d_sae) or d_sae
        threshold = jnp.full(d_sae, common_threshold(features, tokens, k))
    else:
        threshold = jnp.asarray(np.maximum(bar, 0), jnp.float32)
    blocks = [slice(start, start + BLOCK) for start in range(0, len(features.w), BLOCK)]
    parts = [
        _best(Features(*(part[block] for part in features)), tokens, threshold[block], m)
        for block in blocks
    ]
    index, shares = (
        np.concatenate([np.asarray(x) for x in part]) for part in zip(*parts, strict=True)
    )
    excess = np.maximum(shares - LIFT * share[index], 0.0).sum(axis=1)
    return occurs[index], shares, excess


def preactivations(weights: dict[str, np.ndarray], pre_bias: float, means: TokenMeans) -> Features:
    """The features of an SAE (float64 ``weights``) on the rows of one relation."""
    w = weights["W_enc"]
    mean = w @ (means.mean - pre_bias * weights["b_dec"]) + weights["b_enc"]
    std = np.sqrt(np.maximum(np.sum((w @ means.within) * w, axis=1), 1e-12))
    return Features(*(jnp.asarray(part, jnp.float32) for part in (w, mean, std)))


def common_threshold(features: Features, tokens: Tokens, k: int) -> jax.Array:
    """The preactivation, at least 0, that k of the features are expected to exceed on a row."""
    count = len(features.w)
    step = -(-count // SAMPLE)
    sample = Features(*(part[::step] for part in features))
    threshold: jax.Array = _bisect(sample, tokens, jnp.float32(k * len(sample.w) / count))
    return threshold


@jax.jit
def _bisect(features: Features, tokens: Tokens, wanted: jax.Array) -> jax.Array:
    pre = _pre(features, tokens)
    std = features.std[:, None]

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) / 2
        above = jnp.sum(norm.cdf((pre - middle) / std) * tokens.share[None, :])
        return jnp.where(above > wanted, middle, low), jnp.where(above > wanted, high, middle)

    ends = (jnp.zeros((), jnp.float32), jnp.maximum(jnp.max(pre + 6 * std), 0.0))
    low, high = jax.lax.fori_loop(0, HALVINGS, halve, ends)
    threshold: jax.Array = (low + high) / 2
    return threshold


@partial(jax.jit, static_argnames="m")
def _best(
    features: Features, tokens: Tokens, threshold: jax.Array, m: int
) -> tuple[jax.Array, jax.Array]:
    """The m best names: indices into ``tokens`` and expected shares, [n, m]; threshold [n]."""
    pre, std = _pre(features, tokens), features.std[:, None]
    z = (pre - threshold[:, None]) / std
    mass = tokens.share[None, :] * jnp.maximum(pre * norm.cdf(z) + std * norm.pdf(z), 0.0)
    share = mass / jnp.maximum(jnp.sum(mass, axis=1, keepdims=True), 1e-30)
    _, index = jax.lax.top_k(share - LIFT * tokens.share[None, :], m)
    return index, jnp.take_along_axis(share, index, axis=1)


def _pre(features: Features, tokens: Tokens) -> jax.Array:
    """m_t, [n, T]."""
    exact = jax.lax.Precision.HIGHEST
    pre: jax.Array = jnp.matmul(features.w, tokens.rows.T, precision=exact)
    return pre + features.mean[:, None]
