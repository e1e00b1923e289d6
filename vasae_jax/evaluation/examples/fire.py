"""What fires on a batch of rows, and how well it rebuilds them."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from vasae_jax.config import SAEConfig
from vasae_jax.devices.mesh import DATA
from vasae_jax.evaluation.evaluate import Programs, param_specs, rebuilt, winners
from vasae_jax.sae.params import Params


class Fired(NamedTuple):
    """What fires on rows [B]."""

    values: Any
    """float32 [B, slots], activations, the largest first, 0 where fewer features fire"""
    ids: Any
    """int32 [B, slots], the features"""
    error: Any
    """float32 [B], squared error of the reconstruction"""


class FirePrograms:
    """The program that says what fires, with as many slots as rows turn out to need.

    k are enough for TopK. Thresholds may let any number of features fire: see
    :class:`vasae_jax.evaluation.evaluate.Programs`.
    """

    def __init__(self, mesh: Mesh, sae: SAEConfig, thresholds: bool) -> None:
        """For an SAE with settings ``sae``; ``thresholds``: its parameters have some."""
        self._mesh, self._sae, self._thresholds = mesh, sae, thresholds
        self._slots = min(sae.k, Programs.FIRST) if thresholds else sae.k
        self._made: dict[int, Callable[[Params, np.ndarray], Fired]] = {}

    def __call__(self, params: Params, x: np.ndarray) -> Fired:
        """What fires on rows ``x`` [B, d], in NumPy."""
        while True:
            if self._slots not in self._made:
                self._made[self._slots] = fire_program(
                    self._mesh, self._slots, self._sae.pre_bias, self._thresholds
                )
            found: Fired = jax.device_get(self._made[self._slots](params, x))
            if self._slots >= self._sae.k or not (found.values[:, -1] > 0).any():
                return found
            self._slots = min(2 * self._slots, self._sae.k)


def fire_program(
    mesh: Mesh, k: int, pre_bias: float, thresholds: bool
) -> Callable[[Params, np.ndarray], Fired]:
    """The jitted (params, rows [B, d]) -> :class:`Fired` with k slots."""
    local = jax.shard_map(
        partial(_fire, k=k, pre_bias=pre_bias),
        mesh=mesh,
        in_specs=(param_specs(thresholds), P(DATA)),
        out_specs=Fired(P(DATA), P(DATA), P(DATA)),
        check_vma=False,
    )
    return jax.jit(local)


def _fire(params: Params, x: jax.Array, k: int, pre_bias: float) -> Fired:
    x = x.astype(jnp.float32)
    values, ids = winners(params, x, k, pre_bias)
    x_hat = rebuilt(params, x, values, ids, pre_bias)
    return Fired(values, ids, jnp.sum(jnp.square(x - x_hat), axis=1))
