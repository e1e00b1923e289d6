"""The layers of all families as NNX modules over ready-made arrays.

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

from vasae_jax.lm.rope import rotate, rotations
from vasae_jax.lm.spec import Spec

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
}
"""Nonlinearities by Hugging Face's names."""

QUERY_BLOCK = 512
"""Queries that meet all keys at once; more would make the score array large (positions)."""

Arrays = Mapping[str, Any]
"""Parameters by the names of :mod:`vasae_jax.lm.spec`: arrays, or their shapes and dtypes."""


Turn = tuple[jax.Array, jax.Array]
"""Cosine and sine, float32 [S, T, 1, n] each."""


class Frame(NamedTuple):
    """Where the tokens of a batch stand, for all blocks; S is 1 where its windows are alike."""

    turn: Turn | None
    """of rotary models"""
    local_turn: Turn | None
    """of their local layers, where those have their own"""
    first: jax.Array
    """int32 [S, T]: the first place that each place attends to"""


def frame_of(spec: Spec, positions: jax.Array) -> Frame:
    """The frame of tokens at ``positions`` int32 [S, T] of their windows, 0 where one begins."""
    turns = [
        rotations(angles, positions) if angles else None
        for angles in (spec.inverse_frequencies, spec.local_frequencies)
    ]
    places = jnp.arange(positions.shape[1], dtype=jnp.int32)
    return Frame(turns[0], turns[1], places[None, :] - positions)


def product(equation: str, x: jax.Array, y: jax.Array, dtype: np.dtype) -> jax.Array:
    """``jnp.einsum`` of two operands taken as ``dtype``, accumulated and returned in float32."""
    return jnp.einsum(
        equation,
        x.astype(dtype),
        y.astype(dtype),
        precision=jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )


def _last(weight: jax.Array, axes: int) -> jax.Array:
    """``weight`` [d] with leading axes, to meet an array of ``axes`` axes."""
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
        x = x * _last(self.weight[...], x.ndim)
        return x if self.bias is None else x + _last(self.bias[...], x.ndim)


class Linear(nnx.Module):
    """An affine map whose weight is [*out, *in], of ``inputs`` axes of the second kind.

    It multiplies plain matrices: XLA on CPU would copy the weight of any other product into one.
    """

    def __init__(self, arrays: Arrays, name: str, inputs: int = 1):
        self.inputs = inputs
        self.weight = nnx.Param(arrays[f"{name}.weight"])
        bias = arrays.get(f"{name}.bias")
        self.bias = None if bias is None else nnx.Param(bias)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map ``x`` [S, T, *in] to float32 [S, T, *out]."""
        weight = self.weight[...]
        out, into = weight.shape[: -self.inputs], math.prod(weight.shape[-self.inputs :])
        matrix = weight.reshape(-1, into)
        y = product("ni,oi->no", x.reshape(-1, into), matrix, weight.dtype)
        y = y.reshape(*x.shape[:2], *out)
        return y if self.bias is None else y + self.bias[...][None, None]


class Attention(nnx.Module):
    """Causal softmax attention with grouped key and value heads."""

    def __init__(self, arrays: Arrays, spec: Spec):
        self.local = nnx.Variable(arrays["local"]) if spec.local_frequencies else None
        self.scores = Scores(spec.score_scale or spec.head_dim**-0.5, spec.score_cap)
        self.query_norm = Norm(arrays, "query_norm", spec) if spec.qk_norm else None
        self.key_norm = Norm(arrays, "key_norm", spec) if spec.qk_norm else None
        self.query = Linear(arrays, "query")
        self.key = Linear(arrays, "key")
        self.value = Linear(arrays, "value")
        self.out = Linear(arrays, "out", inputs=2)

    def __call__(self, x: jax.Array, frame: Frame) -> jax.Array:
        """What attention adds to the residual stream: [S, T, d] to float32 [S, T, d]."""
        query, key, value = self.query(x), self.key(x), self.value(x)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        turn = self._turn(frame)
        if turn is not None:
            query, key = rotate(query, *turn), rotate(key, *turn)
        dtype = self.query.weight.dtype
        return self.out(causal_attention(query, key, value, frame.first, dtype, self.scores))

    def _turn(self, frame: Frame) -> Turn | None:
        """This layer's angles."""
        if self.local is None or frame.turn is None or frame.local_turn is None:
            return frame.turn
        local = self.local[...]
        (near_cos, near_sin), (cosine, sine) = frame.local_turn, frame.turn
        return jnp.where(local, near_cos, cosine), jnp.where(local, near_sin, sine)


class MLP(nnx.Module):
    """Two-layer perceptron, with a gate or without."""

    def __init__(self, arrays: Arrays, spec: Spec):
        self.activation = spec.activation
        self.gate = Linear(arrays, "gate") if spec.gated else None
        self.up = Linear(arrays, "up")
        self.down = Linear(arrays, "down")

    def __call__(self, x: jax.Array) -> jax.Array:
        """What the MLP adds to the residual stream: [S, T, d] to float32 [S, T, d]."""
        activate = ACTIVATIONS[self.activation]
        hidden = activate(self.up(x)) if self.gate is None else activate(self.gate(x)) * self.up(x)
        return self.down(hidden)


class Block(nnx.Module):
    """One pre-norm transformer block; in the gemma family with norms after both parts too."""

    def __init__(self, arrays: Arrays, spec: Spec):
        ends = spec.family == "gemma"
        self.parallel = spec.parallel
        self.attention_end_norm = Norm(arrays, "attention_end_norm", spec) if ends else None
        self.mlp_end_norm = Norm(arrays, "mlp_end_norm", spec) if ends else None
        self.attention_norm = Norm(arrays, "attention_norm", spec)
        self.attention = Attention(arrays, spec)
        self.mlp_norm = Norm(arrays, "mlp_norm", spec)
        self.mlp = MLP(arrays, spec)

    def __call__(self, x: jax.Array, frame: Frame) -> jax.Array:
        """The residual stream after the block, float32 [S, T, d]."""
        if self.parallel:
            return x + self.attention(self.attention_norm(x), frame) + self.mlp(self.mlp_norm(x))
        mixed = self.attention(self.attention_norm(x), frame)
        x = x + (mixed if self.attention_end_norm is None else self.attention_end_norm(mixed))
        added = self.mlp(self.mlp_norm(x))
        return x + (added if self.mlp_end_norm is None else self.mlp_end_norm(added))


class Scores(NamedTuple):
    """What attention scores are multiplied by, and the cap that tanh puts on them, if any."""

    scale: float
    cap: float | None


def capped(x: jax.Array, cap: float | None) -> jax.Array:
    """c tanh(x / c), or ``x`` itself where there is no cap."""
    return x if cap is None else cap * jnp.tanh(x / cap)


def causal_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    first: jax.Array,
    dtype: np.dtype,
    how: Scores,
) -> jax.Array:
    """softmax(scores of q k^T) v over the places from ``first`` to the query's own.

    Args:
        query: float32 [S, T, heads, head_dim].
        key: float32 [S, T, kv_heads, head_dim], as is ``value``; head h reads group
            h // (heads / kv_heads).
        value: see ``key``.
        first: int32 [S, T], or [1, T] for all.
        dtype: of the products' inputs; the softmax is float32.
        how: scale and cap of the scores.

    Returns:
        float32 [S, T, heads, head_dim].
    """
    s, t, heads, head_dim = query.shape
    grouped = query.reshape(s, t, key.shape[2], heads // key.shape[2], head_dim) * how.scale
    grouped = jnp.transpose(grouped, (0, 2, 3, 1, 4))
    key, value = (jnp.moveaxis(x, 1, 2) for x in (key, value))
    if t <= QUERY_BLOCK:
        mixed = _attend(grouped, jnp.arange(t), first, key, value, dtype, how.cap)
    else:
        blocks = -(-t // QUERY_BLOCK)
        more = (0, blocks * QUERY_BLOCK - t)
        padded = jnp.pad(grouped, ((0, 0), (0, 0), (0, 0), more, (0, 0)))
        split = padded.reshape(*grouped.shape[:3], blocks, QUERY_BLOCK, head_dim)
        places = jnp.arange(blocks * QUERY_BLOCK).reshape(blocks, QUERY_BLOCK)
        firsts = jnp.pad(first, ((0, 0), more)).reshape(-1, blocks, QUERY_BLOCK)
        mixed = jax.lax.map(
            lambda part: _attend(part[0], part[1], part[2], key, value, dtype, how.cap),
            (jnp.moveaxis(split, 3, 0), places, jnp.moveaxis(firsts, 1, 0)),
        )
        mixed = jnp.moveaxis(mixed, 0, 3).reshape(padded.shape)[..., :t, :]
    return jnp.transpose(mixed, (0, 3, 1, 2, 4)).reshape(query.shape)


def _attend(
    query: jax.Array,
    places: jax.Array,
    first: jax.Array,
    key: jax.Array,
    value: jax.Array,
    dtype: np.dtype,
    cap: float | None,
) -> jax.Array:
    """Scaled queries [S, kv_heads, group, t, head_dim] at ``places`` [t] read from ``first`` on.

    Keys and values are [S, kv_heads, T, head_dim]. The mask is added, not selected by, and the
    sum of the softmax divides what was mixed, so that XLA on CPU makes one kernel of it all.
    """
    s, kv_heads, group, t, head_dim = query.shape
    flat = (s, kv_heads, group * t, head_dim)
    scores = capped(product("sktd,skud->sktu", query.reshape(flat), key, dtype), cap)
    keys = jnp.arange(key.shape[2])[None, None, :]
    seen = (places[None, :, None] >= keys) & (first[:, :, None] <= keys)
    hidden = jnp.where(seen, 0.0, -jnp.inf).astype(jnp.float32)[:, None, None]
    hidden = jnp.broadcast_to(hidden, (hidden.shape[0], 1, group, *hidden.shape[3:]))
    scores = scores + hidden.reshape(hidden.shape[0], 1, group * t, -1)
    weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    mixed = product("sktu,skud->sktd", weights, value, dtype)
    mixed = mixed / jnp.sum(weights, axis=-1, keepdims=True)
    return mixed.reshape(query.shape)
