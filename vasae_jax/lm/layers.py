"""The layers of all families as NNX modules around arrays that are already loaded.

Activations are float32 throughout; a matrix product takes its inputs in the dtype of the
weights and accumulates in float32. With float32 weights products are exact float32 on
every platform (no TF32, no bfloat16 passes).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vasae_jax.lm.rope import rotary_cos_sin, rotate
from vasae_jax.lm.spec import Spec

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_fast": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
}
"""Nonlinearities by Hugging Face's names."""

QUERY_BLOCK = 512
"""Most queries (positions) whose scores are computed at once; bounds the array of scores."""

Arrays = Mapping[str, Any]
"""Parameters by the names of :mod:`vasae_jax.lm.spec`: arrays, or their shapes and dtypes."""

Rotation = tuple[jax.Array, jax.Array]
"""Cosine and sine, float32 [S, T, 1, n] each."""


class RotaryAndMask(NamedTuple):
    """What attention needs to know of a batch's positions; S is 1 where all windows are alike."""

    rotation: Rotation | None
    """None for models without rotary embedding"""
    local_rotation: Rotation | None
    """of local layers, where they have angles of their own"""
    first_key: jax.Array
    """int32 [S, T]: index of the first key that each query attends to, where its window begins"""


def rotary_and_mask(spec: Spec, positions: jax.Array) -> RotaryAndMask:
    """Angles and first keys of tokens at ``positions`` int32 [S, T] of their windows."""
    rotation, local_rotation = (
        rotary_cos_sin(frequencies, positions) if frequencies else None
        for frequencies in (spec.inverse_frequencies, spec.local_frequencies)
    )
    indices = jnp.arange(positions.shape[1], dtype=jnp.int32)
    return RotaryAndMask(rotation, local_rotation, indices[None, :] - positions)


def einsum_as(equation: str, x: jax.Array, y: jax.Array, dtype: np.dtype) -> jax.Array:
    """``jnp.einsum`` of two operands cast to ``dtype``, accumulated and returned in float32."""
    return jnp.einsum(
        equation,
        x.astype(dtype),
        y.astype(dtype),
        precision=jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )


def _expand(weight: jax.Array, axes: int) -> jax.Array:
    """``weight`` [d] with leading axes, ``axes`` in all."""
    return weight.reshape((1,) * (axes - 1) + weight.shape)


class Norm(nnx.Module):
    """LayerNorm or RMSNorm over the last axis."""

    def __init__(self, arrays: Arrays, name: str, spec: Spec):
        self.kind = spec.norm_kind
        self.eps = spec.norm_eps
        self.weight = nnx.Param(arrays[f"{name}.weight"])
        self.bias = nnx.Param(arrays[f"{name}.bias"]) if self.kind == "layernorm" else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise ``x`` [..., d], float32."""
        if self.kind == "layernorm":
            x = x - jnp.mean(x, axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.eps)
        x = x * _expand(self.weight[...], x.ndim)
        return x if self.bias is None else x + _expand(self.bias[...], x.ndim)


class Linear(nnx.Module):
    """An affine map with a weight [*out, *in], whose last ``input_axes`` axes are ``in``.

    It multiplies plain matrices: XLA on CPU would copy the weight of any other product into one.
    """

    def __init__(self, arrays: Arrays, name: str, input_axes: int = 1):
        self.input_axes = input_axes
        self.weight = nnx.Param(arrays[f"{name}.weight"])
        bias = arrays.get(f"{name}.bias")
        self.bias = None if bias is None else nnx.Param(bias)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map ``x`` [S, T, *in] to float32 [S, T, *out]."""
        weight = self.weight[...]
        out, into = weight.shape[: -self.input_axes], math.prod(weight.shape[-self.input_axes :])
        matrix = weight.reshape(-1, into)
        y = einsum_as("ni,oi->no", x.reshape(-1, into), matrix, weight.dtype)
        y = y.reshape(*x.shape[:2], *out)
        return y if self.bias is None else y + self.bias[...][None, None]


class Attention(nnx.Module):
    """Causal softmax attention with grouped key and value heads."""

    def __init__(self, arrays: Arrays, spec: Spec):
        self.local = nnx.Variable(arrays["local"]) if spec.local_frequencies else None
        self.score_config = ScoreConfig(spec.score_scale or spec.head_dim**-0.5, spec.score_cap)
        self.query_norm = Norm(arrays, "query_norm", spec) if spec.qk_norm else None
        self.key_norm = Norm(arrays, "key_norm", spec) if spec.qk_norm else None
        self.query = Linear(arrays, "query")
        self.key = Linear(arrays, "key")
        self.value = Linear(arrays, "value")
        self.out = Linear(arrays, "out", input_axes=2)

    def __call__(self, x: jax.Array, batch: RotaryAndMask) -> jax.Array:
        """The output of attention: [S, T, d] to float32 [S, T, d]."""
        query, key, value = self.query(x), self.key(x), self.value(x)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        rotation = self._rotation(batch)
        if rotation is not None:
            query, key = rotate(query, *rotation), rotate(key, *rotation)
        dtype = self.query.weight.dtype
        mixed = causal_attention(query, key, value, batch.first_key, dtype, self.score_config)
        return self.out(mixed)

    def _rotation(self, batch: RotaryAndMask) -> Rotation | None:
        """This layer's angles."""
        if self.local is None or batch.rotation is None or batch.local_rotation is None:
            return batch.rotation
        local = self.local[...]
        (local_cos, local_sin), (cosine, sine) = batch.local_rotation, batch.rotation
        return jnp.where(local, local_cos, cosine), jnp.where(local, local_sin, sine)


class MLP(nnx.Module):
    """Two-layer perceptron, with a gate or without."""

    def __init__(self, arrays: Arrays, spec: Spec):
        self.activation = spec.activation
        self.gate = Linear(arrays, "gate") if spec.gated else None
        self.up = Linear(arrays, "up")
        self.down = Linear(arrays, "down")

    def __call__(self, x: jax.Array) -> jax.Array:
        """The output of the MLP: [S, T, d] to float32 [S, T, d]."""
        activate = ACTIVATIONS[self.activation]
        hidden = activate(self.up(x)) if self.gate is None else activate(self.gate(x)) * self.up(x)
        return self.down(hidden)


class Block(nnx.Module):
    """One pre-norm transformer block; in the gemma family with norms after both parts too."""

    def __init__(self, arrays: Arrays, spec: Spec):
        gemma = spec.family == "gemma"
        self.parallel = spec.parallel
        self.post_attention_norm = Norm(arrays, "post_attention_norm", spec) if gemma else None
        self.post_mlp_norm = Norm(arrays, "post_mlp_norm", spec) if gemma else None
        self.attention_norm = Norm(arrays, "attention_norm", spec)
        self.attention = Attention(arrays, spec)
        self.mlp_norm = Norm(arrays, "mlp_norm", spec)
        self.mlp = MLP(arrays, spec)

    def __call__(self, x: jax.Array, batch: RotaryAndMask) -> jax.Array:
        """The residual stream after the block, float32 [S, T, d]."""
        if self.parallel:
            return x + self.attention(self.attention_norm(x), batch) + self.mlp(self.mlp_norm(x))
        attn_out = self.attention(self.attention_norm(x), batch)
        x = x + (
            attn_out if self.post_attention_norm is None else self.post_attention_norm(attn_out)
        )
        mlp_out = self.mlp(self.mlp_norm(x))
        return x + (mlp_out if self.post_mlp_norm is None else self.post_mlp_norm(mlp_out))


class ScoreConfig(NamedTuple):
    """The factor of attention scores, and their soft cap, if any."""

    scale: float
    cap: float | None


def soft_cap(x: jax.Array, cap: float | None) -> jax.Array:
    """c tanh(x / c), or ``x`` itself where ``cap`` is None."""
    return x if cap is None else cap * jnp.tanh(x / cap)


def causal_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    first_key: jax.Array,
    dtype: np.dtype,
    score_config: ScoreConfig,
) -> jax.Array:
    """softmax(scores of q k^T) v over the keys from ``first_key`` to the query's own.

    Args:
        query: float32 [S, T, heads, head_dim].
        key: float32 [S, T, kv_heads, head_dim], as is ``value``; head h reads group
            h // (heads / kv_heads).
        value: see ``key``.
        first_key: int32 [S, T], or [1, T] for all windows.
        dtype: of the products' inputs; the softmax is float32.
        score_config: scale and cap of the scores.

    Returns:
        float32 [S, T, heads, head_dim].
    """
    s, t, heads, head_dim = query.shape
    scale, cap = score_config
    grouped = query.reshape(s, t, key.shape[2], heads // key.shape[2], head_dim) * scale
    grouped = jnp.transpose(grouped, (0, 2, 3, 1, 4))
    key, value = (jnp.moveaxis(x, 1, 2) for x in (key, value))
    if t <= QUERY_BLOCK:
        mixed = _attend(grouped, jnp.arange(t), first_key, key, value, dtype, cap)
    else:
        blocks = -(-t // QUERY_BLOCK)
        padding = (0, blocks * QUERY_BLOCK - t)
        padded = jnp.pad(grouped, ((0, 0), (0, 0), (0, 0), padding, (0, 0)))
        split = padded.reshape(*grouped.shape[:3], blocks, QUERY_BLOCK, head_dim)
        queries = jnp.arange(blocks * QUERY_BLOCK).reshape(blocks, QUERY_BLOCK)
        first_keys = jnp.pad(first_key, ((0, 0), padding)).reshape(-1, blocks, QUERY_BLOCK)
        mixed = jax.lax.map(
            lambda part: _attend(part[0], part[1], part[2], key, value, dtype, cap),
            (jnp.moveaxis(split, 3, 0), queries, jnp.moveaxis(first_keys, 1, 0)),
        )
        mixed = jnp.moveaxis(mixed, 0, 3).reshape(padded.shape)[..., :t, :]
    return jnp.transpose(mixed, (0, 3, 1, 2, 4)).reshape(query.shape)


def _attend(
    query: jax.Array,
    indices: jax.Array,
    first_key: jax.Array,
    key: jax.Array,
    value: jax.Array,
    dtype: np.dtype,
    cap: float | None,
) -> jax.Array:
    """Attention of scaled queries [S, kv_heads, group, t, head_dim] at ``indices`` [t].

    Keys and values are [S, kv_heads, T, head_dim]. XLA on CPU fuses all of it into one kernel
    because the mask is added, not selected by, and the softmax's sum divides the result.
    """
    s, kv_heads, group, t, head_dim = query.shape
    flat = (s, kv_heads, group * t, head_dim)
    scores = soft_cap(einsum_as("sktd,skud->sktu", query.reshape(flat), key, dtype), cap)
    keys = jnp.arange(key.shape[2])[None, None, :]
    visible = (indices[None, :, None] >= keys) & (first_key[:, :, None] <= keys)
    mask = jnp.where(visible, 0.0, -jnp.inf).astype(jnp.float32)[:, None, None]
    mask = jnp.broadcast_to(mask, (mask.shape[0], 1, group, *mask.shape[3:]))
    scores = scores + mask.reshape(mask.shape[0], 1, group * t, -1)
    weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    mixed = einsum_as("sktu,skud->sktd", weights, value, dtype)
    mixed = mixed / jnp.sum(weights, axis=-1, keepdims=True)
    return mixed.reshape(query.shape)
