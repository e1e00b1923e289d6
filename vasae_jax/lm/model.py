"""The decoder as an NNX module, and its jitted forwards.

The weights of all blocks are stacked on a leading layer axis, and one compiled block runs
in a loop whose bounds are data. So the program compiles as fast for 80 layers as for one,
serves every choice of the same number of layers, and stops after the deepest of them.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vasae_jax.lm.layers import Block, Norm, RotaryAndMask, einsum_as, rotary_and_mask, soft_cap
from vasae_jax.lm.spec import Spec
from vasae_jax.lm.weights import Placement

STREAM = ("batch", "position", "embed")
"""Logical axes of the residual stream."""
Carry = tuple[jax.Array, jax.Array]
"""The residual stream [S, T, d], and the index of the next block."""


class Decoder(nnx.Module):
    """A language model of one of the families.

    Attributes:
        blocks: one :class:`Block` whose arrays have a leading axis of n_layers.
        head: unembedding [V, d], or None where it is the embedding.
    """

    def __init__(
        self,
        spec: Spec,
        arrays: Mapping[str, Any],
        block_arrays: Mapping[str, Any],
        placement: Placement,
    ):
        self.spec = spec
        self.embed_scale, self.logit_cap = spec.embed_scale, spec.logit_cap
        self.placement = placement
        self.embed = nnx.Param(arrays["embed.weight"])
        gpt2 = spec.family == "gpt2"
        self.positions = nnx.Param(arrays["positions.weight"]) if gpt2 else None
        self.blocks = Block(block_arrays, spec)
        self.final_norm = Norm(arrays, "final_norm", spec)
        self.head = None if spec.tied else nnx.Param(arrays["head.weight"])

    def embed_tokens(self, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        """The residual stream before the first block: int32 [S, T] to float32 [S, T, d].

        ``positions`` are int32 [S, T], or [1, T] for all.
        """
        x = self.embed[...][tokens].astype(jnp.float32)
        if self.embed_scale != 1.0:
            x = x * self.embed_scale
        if self.positions is not None:
            x = x + self.positions[...][positions].astype(jnp.float32)
        return self.placement.constrain(x, STREAM)

    def run_blocks(
        self, x: jax.Array, batch: RotaryAndMask, start: jax.Array, layers: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Run blocks ``start`` to ``layers[-1]``.

        Args:
            x: residual stream before block ``start`` [S, T, d].
            batch: angles and mask of its tokens.
            start: int32 scalar.
            layers: int32 [n], increasing, none below ``start``.

        Returns:
            The residual stream after the last block, and after each of ``layers``
            [n, S, T, d].
        """
        graph, weights = nnx.split(self.blocks)

        def block(layer: jax.Array, x: jax.Array) -> jax.Array:
            layer_weights = jax.tree.map(lambda stack: _layer_of(stack, layer), weights)
            return self.placement.constrain(nnx.merge(graph, layer_weights)(x, batch), STREAM)

        def run_to(carry: Carry, layer: jax.Array) -> tuple[Carry, jax.Array]:
            x, begin = carry
            x = jax.lax.fori_loop(begin, layer + 1, block, x)
            return (x, layer + 1), x

        (x, _), kept = jax.lax.scan(run_to, (x, start), layers)
        return x, self.placement.constrain(kept, ("layers", *STREAM))

    def unembed(self, x: jax.Array) -> jax.Array:
        """Final norm and head: the last residual stream [S, T, d] to logits [S, T, V]."""
        head = self.embed[...] if self.head is None else self.head[...]
        logits = einsum_as("std,vd->stv", self.final_norm(x), head, head.dtype)
        return soft_cap(logits, self.logit_cap)


@partial(jax.jit, static_argnums=0)
def residuals(
    graph: Any,
    weights: Any,
    tokens: jax.Array,
    layers: jax.Array,
    positions: jax.Array | None = None,
) -> jax.Array:
    """Post-block residual streams, float32 [len(layers), S, T, d]; ``layers`` increase.

    ``positions`` int32 [S, T] count from the start of each token's window; None: each row of
    ``tokens`` is one window.
    """
    decoder: Decoder = nnx.merge(graph, weights)
    x, batch = _embed(decoder, tokens, positions)
    return decoder.run_blocks(x, batch, jnp.int32(0), layers)[1]


@partial(jax.jit, static_argnums=0)
def logits(graph: Any, weights: Any, tokens: jax.Array) -> jax.Array:
    """Next-token logits, float32 [S, T, V]."""
    decoder: Decoder = nnx.merge(graph, weights)
    x, batch = _embed(decoder, tokens)
    last = jnp.full((1,), decoder.spec.n_layers - 1, jnp.int32)
    return decoder.unembed(decoder.run_blocks(x, batch, jnp.int32(0), last)[0])


@partial(jax.jit, static_argnums=0)
def residual_and_logits(
    graph: Any, weights: Any, tokens: jax.Array, layer: jax.Array, at: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """The residual stream after ``layer`` [S, T, d], and logits as :func:`continue_from`."""
    decoder: Decoder = nnx.merge(graph, weights)
    layers = jnp.stack([layer, jnp.int32(decoder.spec.n_layers - 1)])
    x, batch = _embed(decoder, tokens)
    last, kept = decoder.run_blocks(x, batch, jnp.int32(0), layers)
    return kept[0], decoder.unembed(_select(last, at))


@partial(jax.jit, static_argnums=0)
def continue_from(
    graph: Any, weights: Any, x: jax.Array, layer: jax.Array, at: jax.Array | None
) -> jax.Array:
    """Logits of the model whose residual stream after ``layer`` is ``x`` [S, T, d].

    Of all positions, [S, T, V], or of one position of each window, ``at`` [S]: [S, 1, V].
    """
    decoder: Decoder = nnx.merge(graph, weights)
    last = jnp.full((1,), decoder.spec.n_layers - 1, jnp.int32)
    batch = rotary_and_mask(decoder.spec, _row_positions(x))
    final = decoder.run_blocks(x.astype(jnp.float32), batch, layer + 1, last)[0]
    return decoder.unembed(_select(final, at))


def _select(x: jax.Array, at: jax.Array | None) -> jax.Array:
    """``x`` [S, T, d], or its positions ``at`` [S] alone: [S, 1, d]."""
    return x if at is None else jnp.take_along_axis(x, at[:, None, None], axis=1)


def _embed(
    decoder: Decoder, tokens: jax.Array, positions: jax.Array | None = None
) -> tuple[jax.Array, RotaryAndMask]:
    """The residual stream before the first block [S, T, d], with its angles and mask."""
    positions = _row_positions(tokens) if positions is None else positions
    return decoder.embed_tokens(tokens, positions), rotary_and_mask(decoder.spec, positions)


def _row_positions(rows: jax.Array) -> jax.Array:
    """Positions int32 [1, T] where each row of ``rows`` [S, T, ...] is one window."""
    return jnp.arange(rows.shape[1], dtype=jnp.int32)[None, :]


def _layer_of(stack: jax.Array, layer: jax.Array) -> jax.Array:
    """``stack[layer]`` inside a loop over layers.

    XLA on CPU converts bfloat16 to float32 before indexing. The barrier keeps the conversion
    inside the loop, one layer at a time; outside it would make a float32 copy of all layers.
    """
    stack, layer = jax.lax.optimization_barrier((stack, layer))
    selected: jax.Array = jax.lax.dynamic_index_in_dim(stack, layer, 0, keepdims=False)
    return selected
