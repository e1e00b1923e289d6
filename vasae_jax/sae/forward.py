"""The forward pass of an SAE: rows to activations to reconstructed rows.

    pre = (x - p*b_dec) W_enc^T + b_enc,  z = activation(pre),  x_hat = z W_dec + b_dec

Every room goes through here. Each function works on one device, or on one device's part of the
features inside ``shard_map``. TopK takes a fast way, sparse or dense; any other activation is
selected from all preactivations and differentiated by JAX.

Shapes: B rows, D their width, F features (this device's), K active features of a row.
"""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vasae_jax.activations import Activation, TopK
from vasae_jax.sae import dense, sparse
from vasae_jax.sae.collectives import replicated_input, sum_parts, sum_parts_scattered
from vasae_jax.sae.config import ForwardConfig
from vasae_jax.sae.params import Params
from vasae_jax.sae.topk import Active, by_tiles, preactivations, top_k


class Forward(NamedTuple):
    """What a forward pass gives."""

    x_hat: jax.Array
    """[B, D] float32 reconstruction, complete on every device; or of its part of the rows alone."""
    fired: jax.Array
    """[F] float32, kept rows on which each of this device's features fires."""
    extra_loss: jax.Array | None = None
    """[B] float32, the activation's own term of the loss, summed over all features; None: 0."""


def forward(
    params: Params,
    x_BD: jax.Array,
    cfg: ForwardConfig,
    keep_B: jax.Array | None = None,
    *,
    k: jax.Array | None = None,
    pre_bias: jax.Array | None = None,
) -> Forward:
    """Reconstruct float32 rows; differentiable in ``params``.

    Args:
        params: this device's part of the parameters.
        x_BD: the rows.
        cfg: static settings. Where they split rows, x_hat is [B / n, D], that of this device's
            n-th of the rows (n devices along its axis, a divisor of B).
        keep_B: float32, 0 or 1, the rows that ``fired`` counts; all without it.
        k: [] int32, features that may fire on a row, at most ``cfg.max_k``: the result is that
            of TopK with this k. None: ``cfg.max_k``.
        pre_bias: [] float32, p where it is not 0. None: ``cfg.pre_bias``.
    """
    if cfg.axis is not None and jax.lax.axis_size(cfg.axis) == 1:
        # One device needs no offers and no second sort.
        cfg = replace(cfg, axis=None)
    keep_B = jnp.ones(x_BD.shape[:1], jnp.float32) if keep_B is None else keep_B
    b_dec = params["b_dec"]
    part = _part(params, x_BD, _shift(b_dec, cfg, pre_bias), keep_B, cfg, k)
    extra_loss = None if part.extra_loss is None else sum_parts(part.extra_loss, cfg.axis)
    if cfg.split_rows and cfg.axis is not None:
        x_hat = sum_parts_scattered(part.x_hat, cfg.axis, cfg.dtype)
        x_hat = x_hat + replicated_input(b_dec, cfg.axis)[None, :]
    else:
        x_hat = sum_parts(part.x_hat, cfg.axis) + b_dec[None, :]
    return Forward(x_hat, part.fired, extra_loss)


def _shift(b_dec: jax.Array, cfg: ForwardConfig, pre_bias: jax.Array | None = None) -> jax.Array:
    """What is taken from every row before it is encoded, [D]."""
    if pre_bias is not None:
        return pre_bias * replicated_input(b_dec, cfg.axis)
    if cfg.pre_bias:
        return cfg.pre_bias * replicated_input(b_dec, cfg.axis)
    # With a factor of 0 a compiler must still compute what it multiplies: it may be infinite.
    return jnp.zeros_like(b_dec)


def _part(
    params: Params,
    x_BD: jax.Array,
    shift_D: jax.Array,
    keep_B: jax.Array,
    cfg: ForwardConfig,
    k: jax.Array | None,
) -> Forward:
    """The sums in a forward pass over this device's features alone, without b_dec."""
    W_enc, b_enc, W_dec = params["W_enc"], params["b_enc"], params["W_dec"]
    if not isinstance(cfg.activation, TopK):
        return _selected_part(params, x_BD, shift_D, keep_B, cfg)
    if cfg.execution == "dense":
        weights = dense.Weights(W_enc, b_enc, W_dec)
        return Forward(*dense.reconstruct(x_BD, shift_D, weights, keep_B, k, cfg))
    active = sparse.encode(x_BD, shift_D, W_enc, b_enc, k, cfg)
    part_BD = sparse.decode(active.values, active.ids, W_dec, cfg.unit)
    fires = (active.values > 0).astype(jnp.float32) * keep_B[:, None]
    return Forward(part_BD, jnp.zeros((W_dec.shape[0],), jnp.float32).at[active.ids].add(fires))


def _selected_part(
    params: Params, x_BD: jax.Array, shift_D: jax.Array, keep_B: jax.Array, cfg: ForwardConfig
) -> Forward:
    """Of any activation: all preactivations, ``select``, and the product with W_dec."""
    pre_BF, z_BF = _select(params, x_BD, shift_D, cfg)
    fired_F = jnp.sum((z_BF > 0).astype(jnp.float32) * keep_B[:, None], axis=0)
    part_BD = _times(z_BF.astype(cfg.dtype), params["W_dec"].astype(cfg.dtype))
    return Forward(part_BD, fired_F, cfg.activation.extra_loss(pre_BF, z_BF, params))


def _select(
    params: Params, x_BD: jax.Array, shift_D: jax.Array, cfg: ForwardConfig
) -> tuple[jax.Array, jax.Array]:
    """Preactivations and activations of this device's features, both [B, F] float32."""
    pre_BF = preactivations(x_BD, shift_D, params["W_enc"], params["b_enc"], cfg.dtype)
    return pre_BF, cfg.activation.select(pre_BF, params, cfg.axis)


def _times(z_BF: jax.Array, W_FD: jax.Array) -> jax.Array:
    product: jax.Array = jnp.matmul(z_BF, W_FD, preferred_element_type=jnp.float32)
    return product


def active_features(params: Params, x_BD: jax.Array, cfg: ForwardConfig) -> Active:
    """What fires of this device's features, by their places in its part."""
    shift_D = _shift(params["b_dec"], cfg)
    if isinstance(cfg.activation, TopK):
        return sparse.encode(x_BD, shift_D, params["W_enc"], params["b_enc"], None, cfg)
    _, z_BF = _select(params, x_BD, shift_D, cfg)
    return Active(z_BF, jnp.broadcast_to(jnp.arange(z_BF.shape[1], dtype=jnp.int32), z_BF.shape))


def encode(
    params: Params,
    x_BD: jax.Array,
    activation: Activation,
    pre_bias: float = 0.0,
    *,
    max_active: int | None = None,
    screen: bool = False,
    axis: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Active features of rows: values [B, K] float32 >= 0 and ids [B, K] int32.

    Largest first, ties by lowest id; a value of 0 means that fewer than K features fire. On a
    mesh the result is that of one device, with ids over all devices.

    Args:
        params: this device's part of the parameters.
        x_BD: float32 rows.
        activation: which features fire.
        pre_bias: share of b_dec taken from the input.
        max_active: K. Without it, the most that can fire on a row: d_sae where nothing bounds it.
            With a smaller one the largest are given.
        screen: find the features of TopK through a product in bfloat16, see
            :mod:`vasae_jax.sae.screen`.
        axis: the mesh axis that splits the features.
    """
    features = params["W_dec"].shape[0]
    d_sae = features if axis is None else features * jax.lax.axis_size(axis)
    max_active = max_active or activation.max_active(d_sae) or d_sae
    local_k = min(max_active, features)
    if isinstance(activation, TopK):
        cfg = ForwardConfig(TopK(local_k), pre_bias, screen=screen)
        values, ids = active_features(params, x_BD, cfg)
    else:
        cfg, shift_D = ForwardConfig(activation, pre_bias, axis=axis), pre_bias * params["b_dec"]
        values, ids = by_tiles(
            lambda rows: top_k(_select(params, rows, shift_D, cfg)[1], local_k), x_BD
        )
    if axis is None:
        return values, ids
    # Offers lie in order of device and within one in order of value, then id, so that equal
    # values go to the lowest id.
    ids = ids + jax.lax.axis_index(axis) * features
    offers = jax.lax.all_gather(values, axis, axis=1, tiled=True)
    offer_ids = jax.lax.all_gather(ids, axis, axis=1, tiled=True)
    best, at = jax.lax.top_k(offers, max_active)
    return best, jnp.take_along_axis(offer_ids, at, axis=1)


def decode(
    params: Params, values_BK: jax.Array, ids_BK: jax.Array, axis: str | None = None
) -> jax.Array:
    """x_hat [B, D] float32 from active features; on a mesh, ids are over all devices."""
    if axis is None:
        return sparse.weighted_rows(values_BK, ids_BK, params["W_dec"]) + params["b_dec"][None, :]
    features = params["W_dec"].shape[0]
    first = jax.lax.axis_index(axis) * features
    local = (ids_BK >= first) & (ids_BK < first + features)
    part_BD = sparse.weighted_rows(
        jnp.where(local, values_BK, jnp.zeros_like(values_BK)),
        jnp.clip(ids_BK - first, 0, features - 1),
        params["W_dec"],
    )
    total: jax.Array = jax.lax.psum(part_BD, axis)
    return total + params["b_dec"][None, :]


def reconstruct(
    params: Params,
    x_BD: jax.Array,
    activation: Activation,
    pre_bias: float = 0.0,
    *,
    axis: str | None = None,
) -> jax.Array:
    """x_hat [B, D] float32 of rows, however many features fire on them."""
    if isinstance(activation, TopK):
        return decode(params, *encode(params, x_BD, activation, pre_bias, axis=axis), axis)
    cfg = ForwardConfig(activation, pre_bias, axis=axis)
    _, z_BF = _select(params, x_BD, pre_bias * params["b_dec"], cfg)
    return sum_parts(_times(z_BF, params["W_dec"]), axis) + params["b_dec"][None, :]
