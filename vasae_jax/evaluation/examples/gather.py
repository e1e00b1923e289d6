"""Gathers examples in one pass over a split, sharded as evaluation is, and resumable."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from vasae_jax.activations import Activation, activation_of
from vasae_jax.cache.manifest import NOT_KNOWN, position_in_window
from vasae_jax.config import MeshConfig
from vasae_jax.distributed.mesh import DATA, MODEL, Rules, make_mesh, shardings
from vasae_jax.evaluation.evaluate import GrowingProgram, over_rows
from vasae_jax.evaluation.examples.collect import ByPosition, Collector, Examples, examples
from vasae_jax.evaluation.run import screened
from vasae_jax.sae import Params, decode, encode
from vasae_jax.stream.source import rows_in_order
from vasae_jax.training.run import Run
from vasae_jax.utils.files import atomic_file, sha256_array
from vasae_jax.utils.progress import Progress
from vasae_jax.utils.sizes import read_npz

BATCH = 4096
"""Rows encoded at once, at least; the examples do not depend on it."""
SAVE_SECONDS = 60.0
"""Seconds between two saves of what was gathered."""


@dataclass(frozen=True)
class Gathered:
    """What one pass over a split gathered."""

    examples: Examples
    histogram: np.ndarray
    """int64 [F, bins], firings by activation; the edges are EDGES of the collector"""
    positions: ByPosition


def gather(run: Run, split: str, saved: Path | None = None) -> Gathered:
    """Where every feature of ``run`` fires in ``split``, in one pass over its rows.

    Args:
        run: a trained run; its mesh splits the rows and the features.
        split: the split that is read.
        saved: a file for progress, from which a stopped pass continues; it is removed at the
            end. One of other weights or rows is ignored.

    Raises:
        UserError: the cache lacks the split, a chunk is damaged, or ``saved`` cannot be written.
    """
    state = _Pass(run, split)
    if saved is not None and saved.exists():
        state.load(saved)
    with Progress(state.rows, done=state.done, unit="rows") as progress:
        last = time.monotonic()
        for _ in state.batches():
            progress.update(state.done)
            if saved is not None and time.monotonic() - last > SAVE_SECONDS:
                state.save(saved)
                last = time.monotonic()
        progress.finish(state.rows)
    state.collector.finish()
    chosen = examples(state.collector.top, state.collector.sample, run.cache, split)
    if saved is not None:
        saved.unlink(missing_ok=True)
    return Gathered(chosen, state.collector.histogram, state.positions)


class _Pass:
    """A pass over a split, of which ``done`` rows are processed."""

    def __init__(self, run: Run, split: str) -> None:
        cache, features = run.cache, run.params["W_dec"].shape[0]
        self._run, self._split = run, split
        self.rows, self.done = cache.rows(split), 0
        self._at = position_in_window(cache.column("positions", split).read(0, self.rows))
        self.collector = Collector(
            features, activation_of(run.config.sae).max_active(features) or 0
        )
        self._known = self._at < NOT_KNOWN
        length = int(self._at.max(initial=0, where=self._known)) + 1
        rows, error, square = np.zeros((3, length))
        total = np.zeros((length, cache.manifest.d_model))
        self.positions = ByPosition(rows, error, square, total)

    def batches(self) -> Any:
        """Process one batch after another, and yield after each."""
        run, data, sae = self._run, self._run.config.data, self._run.config.sae
        mesh = run.mesh or make_mesh(MeshConfig(data=1, model=1))
        activation, by_screen = activation_of(sae), screened(run)
        program = GrowingProgram(
            lambda room: fire_program(mesh, activation, room, sae.pre_bias, by_screen),
            lambda fired: fired[0],
            activation,
            run.params["W_dec"].shape[0],
        )
        # Chunks that devices share evenly, so that a pass can start at any batch.
        chunk = run.cache.acts(data.input_site, self._split).chunk_rows
        step = int(np.lcm(mesh.shape[DATA], chunk))
        size = -(-BATCH // step) * step
        params = jax.device_put(run.params, shardings(mesh, Rules().state(run.params)))
        rows = rows_in_order(
            run.cache, data.input_site, self._split, data.mask, batch=size, start=self.done
        )
        for batch in rows:
            fired = program(params, batch.x)
            self._take(batch, program.complete(fired, params, batch.x))
            yield

    def _take(self, batch: Any, fired: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
        real = int((batch.docs >= 0).sum())
        values, ids, error = (part[:real] for part in fired)
        keep, at = batch.keep[:real], self._at[self.done : self.done + real]
        self.collector.add(keep, values, ids)
        keep = keep & self._known[self.done : self.done + real]
        self.positions.add(at[keep], batch.x[:real][keep], error[keep])
        self.done += real

    def save(self, path: Path) -> None:
        """Write what :meth:`load` needs to continue from here."""
        state = {f"positions_{name}": part for name, part in self.positions._asdict().items()}
        state |= self.collector.state()
        with atomic_file(path) as file:
            np.savez(file, identity=self._identity, done=self.done, **state)

    def load(self, path: Path) -> None:
        """Continue from ``path`` if it was saved by the same pass, else start at the first row."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            state = read_npz(path)
            if str(state["identity"]) != self._identity:
                return
            self.positions = ByPosition(*(state[f"positions_{n}"] for n in ByPosition._fields))
            self.collector.load(state)
            self.done = int(state["done"])

    @property
    def _identity(self) -> str:
        """Names the weights, the rows and the mask that saved progress is of."""
        data = self._run.config.data
        weights = sha256_array(np.asarray(self._run.params["W_enc"]))
        return f"{weights} {self._run.cache.digest} {self._split} {data.input_site} {data.mask}"


def fire_program(
    mesh: Mesh, activation: Activation, max_active: int, pre_bias: float, screened: bool = False
) -> Callable[[Params, np.ndarray], tuple[jax.Array, jax.Array, jax.Array]]:
    """The jitted (params, rows [B, d]) -> activations, features [B, K] and squared error [B]."""

    def fire(params: Params, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        x = x.astype(jnp.float32)
        values, ids = encode(
            params, x, activation, pre_bias, max_active=max_active, screen=screened, axis=MODEL
        )
        error = jnp.sum(jnp.square(x - decode(params, values, ids, MODEL)), axis=1)
        return values, ids, error

    return over_rows(fire, mesh, activation, (), (P(DATA), P(DATA), P(DATA)))
