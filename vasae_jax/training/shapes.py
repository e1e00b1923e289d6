"""Shapes of what a run starts from and its steps read, and the memory that it will take.

Both are known before any array is made or anything is compiled. The memory of a step is planned for
TopK, the only activation that is trained here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from vasae_jax.anchor.whitening import KINDS, RANK, TokenStart, WhitenedAnchors, WithinCov
from vasae_jax.cache.manifest import Manifest
from vasae_jax.config import Config
from vasae_jax.distributed.mesh import DATA, MEMBER, MODEL, Rules
from vasae_jax.sae import choose_execution
from vasae_jax.sae.config import Execution
from vasae_jax.sae.topk import tile
from vasae_jax.training.checks import features
from vasae_jax.training.inputs import open_inputs
from vasae_jax.training.loss import Batch, StepInputs
from vasae_jax.training.pack import rounds_of
from vasae_jax.training.state import InitInputs, state_init, token_starts


@dataclass(frozen=True)
class Shapes:
    """The sizes that a compiled program depends on.

    Attributes:
        d: width of a row. vocab: tokens. features: d_sae. rows: rows of a batch.
    """

    d: int
    vocab: int
    features: int
    rows: int

    @property
    def step_flops(self) -> float:
        """Useful flops of a dense step: five products of rows x d x features."""
        return 10.0 * self.rows * self.d * self.features


def shapes_of(config: Config, manifest: Manifest) -> Shapes:
    """Those of a run on a cache."""
    d_sae = features(config, manifest.vocab_size)
    return Shapes(manifest.d_model, manifest.vocab_size, d_sae, config.data.batch)


def init_shapes(config: Config, shapes: Shapes) -> InitInputs:
    """Of what the state at step 0 is made from."""
    key: Any = jax.eval_shape(lambda: jax.random.key(0))
    rows, targets = f32(shapes.vocab, shapes.d), f32(_anchors(config, shapes), shapes.d)
    tokens, n = shaped(np.int32, shapes.vocab), token_starts(config, shapes.features, shapes.vocab)
    start = TokenStart(f32(n, shapes.d), f32(n, shapes.d), f32(n)) if n else None
    return InitInputs(key, f32(shapes.d), rows, targets, tokens, f32(), f32(), f32(), start)


def input_shapes(config: Config, shapes: Shapes) -> StepInputs:
    """Of what steps read; of layer anchors for the encoder, as many as there can be."""
    anchors = f32(_anchors(config, shapes), shapes.d)
    return StepInputs(anchors, f32(shapes.d), f32(), _whitened(config, shapes))


def batch_shapes(shapes: Shapes) -> Batch:
    """Of a batch of bfloat16 rows."""
    return Batch(shaped(jnp.bfloat16, shapes.rows, shapes.d), shaped(np.bool_, shapes.rows))


def f32(*shape: int) -> Any:
    """A float32 array's shape."""
    return shaped(np.float32, *shape)


def shaped(dtype: Any, *shape: int) -> Any:
    """An array's shape and type."""
    return jax.ShapeDtypeStruct(shape, dtype)


def _whitened(config: Config, shapes: Shapes) -> WhitenedAnchors | None:
    """Of the anchors that cosines with the encoder are taken with, whitened."""
    anchor = config.anchor
    if config.sae.method != "soft" or anchor.kind == "embedding" or anchor.pulls == "decoder":
        return None
    rank, count = min(RANK, shapes.d - 1), _anchors(config, shapes)
    return WhitenedAnchors(
        WithinCov(f32(), f32(shapes.d, rank), f32(rank)), f32(count, rank), f32(count)
    )


def _anchors(config: Config, shapes: Shapes) -> int:
    """Rows of :func:`vasae_jax.training.state.target_rows`, at most."""
    if config.sae.method != "soft":
        return 1
    return shapes.vocab * len(KINDS.get(config.anchor.kind, ("embedding",)))


MIB = 2**20


@dataclass(frozen=True)
class Memory:
    """Bytes on each device."""

    state: int
    """Parameters, Adam's moments, nearest anchors and counters, of all runs that it holds."""
    inputs: int
    """Anchors, and what else steps read."""
    gradients: int
    """Of both matrices, while a step is under way."""
    activations: int
    """Of all features on the device's rows, while a step is under way."""

    @property
    def total(self) -> int:
        """Their sum."""
        return sum(astuple(self))

    def __str__(self) -> str:
        listed = ", ".join(f"{name} {size / MIB:,.0f} MiB" for name, size in asdict(self).items())
        return f"about {self.total / MIB:,.0f} MiB on each device: {listed}"


def planned(configs: Sequence[Config]) -> Memory:
    """The memory that a run, or a pack of runs, takes on each device here.

    Raises:
        UserError: the run or the pack would be refused.
    """
    first = configs[0]
    cache, mesh, _ = open_inputs(configs)
    return memory(
        first,
        shapes_of(first, cache.manifest),
        mesh.shape,
        choose_execution(first.sae.execution, jax.default_backend()),
        rounds=len(rounds_of(configs, mesh.shape[MEMBER])),
        layers=len({config.data.input_site for config in configs}),
    )


def memory(
    config: Config,
    shapes: Shapes,
    axes: Mapping[str, int],
    execution: Execution,
    *,
    rounds: int = 1,
    layers: int = 1,
) -> Memory:
    """What a run, or a pack of runs like it, takes on each device.

    A compiler may plan more or less, by copies that it makes or avoids: within a seventh for the
    shapes of docs/benchmarks.md.

    Args:
        config: of the run. shapes: its sizes. execution: of its step.
        axes: devices along each axis of the mesh.
        rounds: runs that a device holds.
        layers: that they are of; each has anchors of its own.
    """
    features, rows = shapes.features // axes[MODEL], shapes.rows // axes[DATA]
    init = init_shapes(config, shapes)
    state = jax.eval_shape(state_init(config, shapes.features), init)
    inputs = input_shapes(config, shapes)
    return Memory(
        state=_bytes(state, Rules().state(state), axes) * rounds,
        inputs=sum(_size(leaf) for leaf in jax.tree.leaves(inputs)) * layers,
        gradients=2 * 4 * features * shapes.d,
        activations=_activations(config, execution, rows) * features,
    )


def _activations(config: Config, execution: Execution, rows: int) -> int:
    """Bytes held for each feature."""
    if execution == "dense":  # activations, and the gradient behind them
        return rows * (4 + (2 if config.sae.compute_dtype == "bfloat16" else 4))
    # XLA adds bias and bound where the product lies, but what comes after a relu beside it.
    return tile(rows) * (4 if config.sae.screen == "on" else 8)


def _bytes(tree: Any, specs: Any, axes: Mapping[str, int]) -> int:
    leaves = jax.tree.leaves(tree)
    split = [
        math.prod(axes[axis] for axis in spec if axis is not None)
        for spec in jax.tree.leaves(specs, is_leaf=lambda leaf: isinstance(leaf, P))
    ]
    return sum(_size(leaf) // parts for leaf, parts in zip(leaves, split, strict=True))


def _size(leaf: Any) -> int:
    size: int = math.prod(leaf.shape) * leaf.dtype.itemsize
    return size
