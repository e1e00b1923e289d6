"""The decoder as an NNX module, and its jitted forwards.

The weights of all blocks are stacked on a leading layer axis, and one compiled block runs
in a loop whose bounds are data: the program compiles as fast for 80 layers as for one, is
shared by all sets of layers of equal size, and does no work past the deepest one.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vasae_jax.lm.layers import Block, Frame, Norm, capped, frame_of, product
from vasae_jax.lm.spec import Spec
from vasae_jax.lm.weights import Placement

STREAM = ("batch", "position", "embed")
"""Logical axes of the residual stream."""
Carry = tuple[jax.Array, jax.Array]
"""The stream [S, T, d], and the number of the next block."""


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

    def embedded(self, tokens: jax.Array, positions: jax.Array) -> jax.Array:
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
        self, x: jax.Array, frame: Frame, start: jax.Array, layers: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Run blocks ``start`` to ``layers[-1]``.

        Args:
            x: residual stream before block ``start`` [S, T, d].
            frame: of its tokens.
            start: int32 scalar.
            layers: int32 [n], increasing, from ``start`` on.

        Returns:
            The residual stream after the last block, and after each of ``layers``
            [n, S, T, d].
        """
        graph, weights = nnx.split(self.blocks)

        def block(layer: jax.Array, x: jax.Array) -> jax.Array:
            one = jax.tree.map(lambda stack: _layer_of(stack, layer), weights)
            return self.placement.constrain(nnx.merge(graph, one)(x, frame), STREAM)

        def up_to(carry: Carry, layer: jax.Array) -> tuple[Carry, jax.Array]:
            x, begin = carry
            x = jax.lax.fori_loop(begin, layer + 1, block, x)
            return (x, layer + 1), x

        (x, _), kept = jax.lax.scan(up_to, (x, start), layers)
        return x, self.placement.constrain(kept, ("layers", *STREAM))

    def unembedded(self, x: jax.Array) -> jax.Array:
        """Final norm and head: the last residual stream [S, T, d] to logits [S, T, V]."""
        head = self.embed[...] if self.head is None else self.head[...]
        return capped(product("std,vd->stv", self.final_norm(x), head, head.dtype), self.logit_cap)


@partial(jax.jit, static_argnums=0)
def residuals(
    graph: Any,
    weights: Any,
    tokens: jax.Array,
    layers: jax.Array,
    positions: jax.Array | None = None,
) -> jax.Array:
    """Post-block residual streams, float32 [len(layers), S, T, d]; ``layers`` increase.

    ``positions`` int32 [S, T] say where in its window each token stands; None: each row of
    ``tokens`` is one window.
    """
    decoder: Decoder = nnx.merge(graph, weights)
    where = _counted(tokens) if positions is None else positions
    x, frame = decoder.embedded(tokens, where), frame_of(decoder.spec, where)
    return decoder.run_blocks(x, frame, jnp.int32(0), layers)[1]


@partial(jax.jit, static_argnums=0)
def logits(graph: Any, weights: Any, tokens: jax.Array) -> jax.Array:
    """Next-token logits, float32 [S, T, V]."""
    decoder: Decoder = nnx.merge(graph, weights)
    x, frame = _begun(decoder, tokens)
    last = jnp.full((1,), decoder.spec.n_layers - 1, jnp.int32)
    return decoder.unembedded(decoder.run_blocks(x, frame, jnp.int32(0), last)[0])


@partial(jax.jit, static_argnums=0)
def whole(
    graph: Any, weights: Any, tokens: jax.Array, layer: jax.Array, places: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """The stream after ``layer`` [S, T, d], and the logits: of all positions or of ``places``."""
    decoder: Decoder = nnx.merge(graph, weights)
    layers = jnp.stack([layer, jnp.int32(decoder.spec.n_layers - 1)])
    x, frame = _begun(decoder, tokens)
    last, kept = decoder.run_blocks(x, frame, jnp.int32(0), layers)
    return kept[0], decoder.unembedded(_at(last, places))


@partial(jax.jit, static_argnums=0)
def continue_from(
    graph: Any, weights: Any, x: jax.Array, layer: jax.Array, places: jax.Array | None
) -> jax.Array:
    """Logits of the model whose residual stream after ``layer`` is ``x`` [S, T, d].

    Of all positions, [S, T, V], or of one of each window, ``places`` [S]: [S, 1, V].
    """
    decoder: Decoder = nnx.merge(graph, weights)
    last = jnp.full((1,), decoder.spec.n_layers - 1, jnp.int32)
    frame = frame_of(decoder.spec, _counted(x))
    end = decoder.run_blocks(x.astype(jnp.float32), frame, layer + 1, last)[0]
    return decoder.unembedded(_at(end, places))


def _at(x: jax.Array, places: jax.Array | None) -> jax.Array:
    """``x`` [S, T, d], or its positions ``places`` [S] alone: [S, 1, d]."""
    return x if places is None else jnp.take_along_axis(x, places[:, None, None], axis=1)


def _begun(decoder: Decoder, tokens: jax.Array) -> tuple[jax.Array, Frame]:
    """The stream before the first block [S, T, d]; each row of ``tokens`` is a window."""
    positions = _counted(tokens)
    return decoder.embedded(tokens, positions), frame_of(decoder.spec, positions)


def _counted(batch: jax.Array) -> jax.Array:
    """Positions int32 [1, T] of windows that each fill a row of ``batch`` [S, T, ...]."""
    return jnp.arange(batch.shape[1], dtype=jnp.int32)[None, :]


def _layer_of(stack: jax.Array, layer: jax.Array) -> jax.Array:
    """``stack[layer]`` inside a loop over layers.

    XLA on CPU widens bfloat16 before indexing it. The barrier keeps that inside the loop,
    where it touches one layer; hoisted out it would hold a float32 copy of all of them.
    """
    stack, layer = jax.lax.optimization_barrier((stack, layer))
    one: jax.Array = jax.lax.dynamic_index_in_dim(stack, layer, 0, keepdims=False)
    return one
