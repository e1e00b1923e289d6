"""The shapes of what a run starts from and its steps read, without any array."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vasae_jax.anchor.layer import KINDS, Placed, Scatter
from vasae_jax.anchor.layer.scatter import RANK
from vasae_jax.cache.manifest import Manifest
from vasae_jax.config import Config
from vasae_jax.training.checks import features
from vasae_jax.training.loss import Batch, Context
from vasae_jax.training.state import Start


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


def start_shapes(config: Config, shapes: Shapes) -> Start:
    """Of what the state at step 0 is made from."""
    key: Any = jax.eval_shape(lambda: jax.random.key(0))
    rows, targets = f32(shapes.vocab, shapes.d), f32(_anchors(config, shapes), shapes.d)
    return Start(key, f32(shapes.d), rows, targets, shaped(np.int32, shapes.vocab))


def context_shapes(config: Config, shapes: Shapes) -> Context:
    """Of what steps only read; of layer anchors for the encoder, as many as there can be."""
    anchors = f32(_anchors(config, shapes), shapes.d)
    return Context(anchors, f32(shapes.d), f32(), _placed(config, shapes))


def batch_shapes(shapes: Shapes) -> Batch:
    """Of a batch of bfloat16 rows."""
    return Batch(shaped(jnp.bfloat16, shapes.rows, shapes.d), shaped(np.bool_, shapes.rows))


def f32(*shape: int) -> Any:
    """A float32 array's shape."""
    return shaped(np.float32, *shape)


def shaped(dtype: Any, *shape: int) -> Any:
    """An array's shape and type."""
    return jax.ShapeDtypeStruct(shape, dtype)


def _placed(config: Config, shapes: Shapes) -> Placed | None:
    """Of the measure that :func:`vasae_jax.training.targets.target_rows` gives."""
    anchor = config.anchor
    if config.sae.method != "soft" or anchor.kind == "embedding" or anchor.pulls == "decoder":
        return None
    rank, count = min(RANK, shapes.d - 1), _anchors(config, shapes)
    return Placed(Scatter(f32(), f32(shapes.d, rank), f32(rank)), f32(count, rank), f32(count))


def _anchors(config: Config, shapes: Shapes) -> int:
    """Rows of :func:`vasae_jax.training.targets.target_rows`, at most."""
    if config.sae.method != "soft":
        return 1
    return shapes.vocab * len(KINDS.get(config.anchor.kind, ("embedding",)))
