"""The state of a pack: that of a run, every leaf with a leading axis of members."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from vasae_jax.mesh import Rules, shardings
from vasae_jax.train.state import TrainState


class Layout:
    """Puts the states of single runs into that of a pack and takes them out again.

    The state of a single run lies on the same mesh by the rules of one, so that each device
    along ``member`` has a copy: one at a time is little beside a training step's memory.
    """

    def __init__(self, state: TrainState, members: int, mesh: Mesh) -> None:
        """For ``members`` states like ``state`` (its shapes only); ``member`` divides them."""
        rules = Rules()
        self._members = members
        self._like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((members, *leaf.shape), leaf.dtype), state
        )
        whole = shardings(mesh, rules.pack(self._like))
        self._empty = jax.jit(self._zeros, out_shardings=whole)
        self._put = jax.jit(_put, out_shardings=whole, donate_argnums=0)
        self._take = jax.jit(_take, out_shardings=shardings(mesh, rules.state(state)))

    def gather(self, states: Iterable[TrainState]) -> TrainState:
        """The pack's state, born sharded, out of its members', which are asked for in turn."""
        pack = self._empty()
        for index, state in enumerate(states):
            pack = self.put(pack, state, index)
        return pack

    def put(self, pack: TrainState, state: TrainState, index: int) -> TrainState:
        """``pack`` with ``state`` as its member ``index``; ``pack`` is donated."""
        return self._put(pack, state, jnp.int32(index))

    def take(self, pack: TrainState, index: int) -> TrainState:
        """Member ``index`` as the state of a single run."""
        return self._take(pack, jnp.int32(index))

    def _zeros(self) -> TrainState:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self._like)


def _put(pack: Any, state: Any, index: jax.Array) -> Any:
    def put(leaf: jax.Array, own: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_index_in_dim(leaf, own, index, 0)

    return jax.tree.map(put, pack, state)


def _take(pack: Any, index: jax.Array) -> Any:
    return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, 0, False), pack)
