"""The pass over a split that gathers examples: sharded as evaluation is, and resumable."""

import contextlib
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from vasae_jax.config import MeshConfig
from vasae_jax.distributed.mesh import DATA, Rules, make_mesh, shardings
from vasae_jax.evaluation.evaluate import Slots, decoded, param_specs, winners
from vasae_jax.evaluation.examples.collect import ByPosition, Collector, Examples, examples
from vasae_jax.evaluation.run import screened
from vasae_jax.sae.params import Params
from vasae_jax.stream import rows_in_order
from vasae_jax.training.run import Run
from vasae_jax.utils.files import atomic_file, sha256_array
from vasae_jax.utils.progress import Progress

BATCH = 4096
"""Rows encoded at once, at least; the examples do not depend on it."""
SAVE_SECONDS = 60.0
"""Seconds between two saves of what was gathered."""


@dataclass(frozen=True)
class Gathered:
    """What a pass over a split gives."""

    examples: Examples
    histogram: np.ndarray
    """int64 [F, bins], firings by activation; the edges are EDGES of the collector"""
    positions: ByPosition


def gather(run: Run, split: str, saved: Path | None = None) -> Gathered:
    """Where every feature of ``run`` fires in ``split``, in one pass over its rows.

    Args:
        run: a trained run; its mesh splits the rows and the features.
        split: the split that is read.
        saved: a file in which progress is kept, so that a stopped pass goes on; it is removed
            at the end. One of other weights or rows is ignored.

    Raises:
        UserError: the cache lacks the split, a chunk is damaged, or ``saved`` cannot be written.
    """
    one = _Pass(run, split)
    if saved is not None and saved.exists():
        one.load(saved)
    with Progress(one.rows, done=one.done, unit="rows") as progress:
        last = time.monotonic()
        for _ in one.batches():
            progress.update(one.done)
            if saved is not None and time.monotonic() - last > SAVE_SECONDS:
                one.save(saved)
                last = time.monotonic()
        progress.finish(one.rows)
    one.collector.finish()
    found = examples(one.collector.top, one.collector.sample, run.cache, split)
    if saved is not None:
        saved.unlink(missing_ok=True)
    return Gathered(found, one.collector.histogram, one.positions)


class _Pass:
    """A pass that stands at row ``done``."""

    def __init__(self, run: Run, split: str) -> None:
        cache, features = run.cache, run.params["W_dec"].shape[0]
        self._run, self._split = run, split
        self.rows, self.done = cache.rows(split), 0
        self._at = cache.column("positions", split).read(0, self.rows)
        self.collector = Collector(features, 0 if "threshold" in run.params else run.config.sae.k)
        self.positions = ByPosition.zeros(int(self._at.max()) + 1, cache.manifest.d_model)

    def batches(self) -> Any:
        """Take in batch after batch, and yield after each."""
        run, data = self._run, self._run.config.data
        mesh = run.mesh or make_mesh(MeshConfig(data=1, model=1))
        chunk = run.cache.acts(data.input_site, self._split).chunk_rows
        size = _batch_rows(mesh.shape[DATA], chunk)
        program = _slots(run, mesh)
        params = jax.device_put(run.params, shardings(mesh, Rules().state(run.params)))
        rows = rows_in_order(
            run.cache, data.input_site, self._split, data.mask, batch=size, start=self.done
        )
        for batch in rows:
            fired = program(params, batch.x)
            self._take(batch, program.autotuned(fired, params, batch.x))
            yield

    def _take(self, batch: Any, fired: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
        real = int((batch.docs >= 0).sum())
        values, ids, error = (part[:real] for part in fired)
        keep, at = batch.keep[:real], self._at[self.done : self.done + real]
        self.collector.add(keep, values, ids)
        self.positions.add(at[keep], batch.x[:real][keep], error[keep])
        self.done += real

    def save(self, path: Path) -> None:
        """Write all that is needed to go on from here."""
        state = {f"positions_{name}": part for name, part in self.positions._asdict().items()}
        state |= self.collector.state()
        with atomic_file(path) as file:
            np.savez(file, identity=self._identity, done=self.done, **state)

    def load(self, path: Path) -> None:
        """Go on from ``path`` if it is of this very pass, else begin anew."""
        with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile):
            with np.load(path, allow_pickle=False) as file:
                state = dict(file)
            if str(state["identity"]) != self._identity:
                return
            self.positions = ByPosition(*(state[f"positions_{n}"] for n in ByPosition._fields))
            self.collector.load(state)
            self.done = int(state["done"])

    @property
    def _identity(self) -> str:
        """What saved progress belongs to: weights, rows, and which of them count."""
        data = self._run.config.data
        weights = sha256_array(np.asarray(self._run.params["W_enc"]))
        return f"{weights} {self._run.cache.digest} {self._split} {data.input_site} {data.mask}"


def _batch_rows(devices: int, chunk: int) -> int:
    """Rows of a batch: whole chunks that devices share evenly, so that a pass may start there."""
    step = int(np.lcm(devices, chunk))
    return -(-BATCH // step) * step


def _slots(run: Run, mesh: Mesh) -> Slots:
    sae, thresholds, by_screen = run.config.sae, "threshold" in run.params, screened(run)
    return Slots(
        lambda slots: fire_program(mesh, slots, sae.pre_bias, thresholds, by_screen),
        lambda fired: fired[0],
        sae.k,
        thresholds,
    )


def fire_program(
    mesh: Mesh, k: int, pre_bias: float, thresholds: bool = False, screened: bool = False
) -> Callable[[Params, np.ndarray], tuple[jax.Array, jax.Array, jax.Array]]:
    """The jitted (params, rows [B, d]) -> activations, features [B, k] and squared error [B]."""
    local = jax.shard_map(
        partial(_fire, k=k, pre_bias=pre_bias, screened=screened),
        mesh=mesh,
        in_specs=(param_specs(thresholds), P(DATA)),
        out_specs=(P(DATA), P(DATA), P(DATA)),
        check_vma=False,
    )
    return jax.jit(local)


def _fire(
    params: Params, x: jax.Array, k: int, pre_bias: float, screened: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x = x.astype(jnp.float32)
    values, ids = winners(params, x, k, pre_bias, screened=screened)
    return values, ids, jnp.sum(jnp.square(x - decoded(params, values, ids)), axis=1)
