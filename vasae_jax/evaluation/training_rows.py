"""Where features fire on a sample of training rows: what names are chosen by."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from vasae_jax.activations import Activation, activation_of
from vasae_jax.cache import Cache
from vasae_jax.config import MeshConfig
from vasae_jax.distributed.mesh import DATA, MODEL, Rules, make_mesh, shardings
from vasae_jax.evaluation.evaluate import GrowingProgram, over_rows
from vasae_jax.names.counts import FiringCounter, FiringCounts
from vasae_jax.sae import Params, encode
from vasae_jax.stream.order import next_tokens
from vasae_jax.stream.source import Source, spread_chunks
from vasae_jax.training.run import Run

NAMING_ROWS = 2**17
"""Training rows that names are chosen by, about: evenly spaced chunks, or all if there are fewer.
"""


def count_training_rows(run: Run, cache: Cache, *, screened: bool = False) -> FiringCounts:
    """How often the features of ``run`` fire at and before each token, on training rows.

    Args:
        run: a trained run; its mesh splits the rows and the features.
        cache: whose training rows are read: the run's, or another one of the same model.
        screened: find what fires through a bfloat16 product, see :mod:`vasae_jax.sae.screen`.

    Raises:
        UserError: the cache lacks the site or has no training rows, or a chunk is damaged.
    """
    sae, features = run.config.sae, run.params["W_dec"].shape[0]
    mesh = run.mesh or make_mesh(MeshConfig(data=1, model=1))
    activation = activation_of(sae)
    program = GrowingProgram(
        lambda room: encode_program(mesh, activation, room, sae.pre_bias, screened),
        lambda active: active[0],
        activation,
        features,
    )
    params = jax.device_put(run.params, shardings(mesh, Rules().state(run.params)))
    counter = FiringCounter(features, cache.manifest.vocab_size)
    for x, keep, token, next_token in _sample(run, cache, mesh.shape[DATA]):
        values, ids = program.complete(program(params, x), params, x)
        real = np.flatnonzero(keep)
        counter.add(values[real], ids[real], token[real], next_token[real])
    return counter.counts()


def _sample(run: Run, cache: Cache, parts: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Rows, which of them count, their tokens and next tokens, a chunk at a time.

    Chunks are filled up with rows that do not count, to one size that ``parts`` devices share.
    """
    data, split = run.config.data, "train"
    source = Source(cache, data.input_site, split, data.mask)
    tokens, positions = cache.column("tokens", split), cache.column("positions", split)
    chunk = source.acts.chunk_rows
    ranges = spread_chunks(source.rows, chunk, NAMING_ROWS)
    size = -(-min(chunk, source.rows) // parts) * parts
    for start, stop in ranges:
        batch, after = source.read_async([(start, stop)]), min(stop + 1, source.rows)
        token = tokens.read(start, after)
        following = next_tokens(token, positions.read(start, after))
        rows = batch.result()
        missing = size - len(rows.x)
        yield (
            np.pad(rows.x, ((0, missing), (0, 0))),
            np.pad(rows.keep, (0, missing)),
            token[: stop - start],
            following[: stop - start],
        )


def encode_program(
    mesh: Mesh, activation: Activation, max_active: int, pre_bias: float, screened: bool = False
) -> Callable[[Params, np.ndarray], tuple[jax.Array, jax.Array]]:
    """The jitted (params, rows [B, d]) -> activations and features [B, K]."""

    def program(params: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = x.astype(jnp.float32)
        active: tuple[jax.Array, jax.Array] = encode(
            params, x, activation, pre_bias, max_active=max_active, screen=screened, axis=MODEL
        )
        return active

    return over_rows(program, mesh, activation, (), (P(DATA), P(DATA)))
