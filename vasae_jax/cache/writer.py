"""Writing a cache shard by shard, with a journal from which a killed extraction continues."""

import contextlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

import ml_dtypes  # noqa: F401 (registers bfloat16 with NumPy)
import numpy as np

from vasae_jax.cache.journal import Shards, begin, finalize, journal_bytes, read_state
from vasae_jax.cache.manifest import (
    ANCHORS,
    COLUMNS,
    FINAL_NORM,
    JOURNAL,
    SPLITS,
    TOKENS,
    CachePlan,
    Manifest,
    ShardInfo,
    shard_key,
)
from vasae_jax.cache.store import UNBOUNDED, Store, resize, write_all
from vasae_jax.cache.vocab import Vocabulary
from vasae_jax.sites import Site, SiteLike, as_site
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.lock import OWNER

BLOCK = 1024  # rows whose norms are computed at once: few enough to stay in the processor's cache


class SplitBuffer:
    """Rows of a split, kept in memory until a shard is full.

    Attributes:
        start: row of the split that the buffer begins with.
        count: rows in the buffer, below ``plan.shard_rows``.
    """

    def __init__(self, split: str, plan: CachePlan, start: int) -> None:
        self.split, self.plan, self.start, self.count = split, plan, start, 0
        self._arrays, self._other = self._allocate(), self._allocate()

    @property
    def position(self) -> int:
        """The row of the split that comes next."""
        return self.start + self.count

    @property
    def room(self) -> int:
        """Rows that still fit into the shard."""
        return self.plan.shard_rows - self.count

    def add(self, columns: Mapping[str, np.ndarray], rows: Mapping[Site, np.ndarray]) -> None:
        """Copy in n rows, at most ``room``: ``columns`` [n], ``rows`` [n, d_model] by site.

        Raises:
            UserError: a row has a value that is not finite as it would be stored.
        """
        place = slice(self.count, self.count + len(columns["tokens"]))
        for site, values in rows.items():
            acts = self._arrays[self.plan.site_key(self.split, "acts", site)][place]
            with np.errstate(over="ignore"):  # an overflow becomes inf and is refused below
                acts[...] = values.astype(acts.dtype, copy=False)
            norms = row_norms(acts)
            if not np.isfinite(norms).all():
                row = int(np.isfinite(norms).argmin())
                raise UserError(
                    f"{site} has a value that is not finite as {self.plan.dtype} in document "
                    f"{columns['docs'][row]} at position {columns['positions'][row]}; expected "
                    "finite rows"
                )
            self._arrays[self.plan.site_key(self.split, "norms", site)][place] = norms
        for name in COLUMNS:
            self._arrays[f"{self.split}/{name}"][place] = columns[name]
        self.count = place.stop

    def take(self) -> dict[str, np.ndarray]:
        """Remove and return all rows, by array; they are valid until the next ``take``."""
        taken = {key: array[: self.count] for key, array in self._arrays.items()}
        self.start, self.count = self.position, 0
        self._arrays, self._other = self._other, self._arrays
        return taken

    def _allocate(self) -> dict[str, np.ndarray]:
        # np.empty of this size takes no memory until a row is copied in. The two sets are used
        # in turn: copying into memory that has been written before takes half the time.
        arrays = self.plan.split_arrays(self.split, self.plan.shard_rows)
        return {key: np.empty(of["shape"], of["data_type"]) for key, of in arrays.items()}


def row_norms(rows: np.ndarray) -> np.ndarray:
    """L2 norm of each row: float32 [n], not finite exactly where a row is not.

    A norm that float32 cannot hold is its largest number.
    """
    norms = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK].astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            norms[start : start + BLOCK] = np.sqrt(np.einsum("ij,ij->i", block, block))
    for row in np.flatnonzero(~np.isfinite(norms)):  # finite numbers whose squares are not
        norm = np.sqrt(np.square(rows[row].astype(np.float64)).sum())
        norms[row] = min(norm, np.finfo(np.float32).max) if np.isfinite(norm) else norm
    return norms


class CacheWriter:
    """Appends rows to a new or unfinished cache.

    Rows are kept in memory until a shard is full (``plan.shard_rows`` rows of every site
    of one split: two such shards are in memory while one is being written). All arrays of
    a shard are then written at once on a thread, read back for their digests, and entered
    in ``journal.json``, after which they are durable. A writer opened again with an equal
    plan continues after the durable rows, see :meth:`rows_done`; the finished cache has the
    same bytes as one that was never interrupted.

    Args:
        url: a local directory, a gs:// or s3:// URL: new, empty, or an unfinished cache.
        plan: what the cache will be.
        vocabulary: the model's embeddings, final norm and token strings.
        overwrite: replace the cache that is there; a directory with anything else in it is
            refused.
        expected: rows that each split will have, for the progress of an unfinished cache.

    Raises:
        UserError: the place is not writable, holds something else, a complete cache
            (unless ``overwrite``), or an unfinished one with another plan; or the
            vocabulary does not fit the plan; or another process writes there.
    """

    def __init__(
        self,
        url: str,
        plan: CachePlan,
        vocabulary: Vocabulary,
        *,
        overwrite: bool = False,
        expected: Mapping[str, int] | None = None,
    ) -> None:
        self._prepare(url, plan, vocabulary)
        self._expected = dict(expected or {})
        read_state(self._store)  # refuses other places before a lock file is written there
        with self._locked(OWNER):
            self._shards = begin(self._store, plan, self._digests, overwrite)
            self._clear_undurable()
            if not self._shards:
                self._shards = self._write_vocabulary(vocabulary)
                self._write_journal()
            self._arrays = {
                key: self._store.create_array(key, metadata)
                for split in SPLITS
                for key, metadata in plan.split_arrays(split, UNBOUNDED).items()
            }
        self._start()

    def _prepare(self, url: str, plan: CachePlan, vocabulary: Vocabulary) -> None:
        vocabulary.check(plan)
        self.plan, self._store, self._digests = plan, Store(url), vocabulary.digests()

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Lock the place until the writer is closed, or the block fails."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._store.lock(name))
            yield
            self._lock = stack.pop_all()

    def _start(self) -> None:
        """Begin to accept rows, in each split after the durable ones."""
        self._buffers = {s: SplitBuffer(s, self.plan, self.rows_done(s)) for s in SPLITS}
        self._thread = ThreadPoolExecutor(1, "cache-writer")
        self._pending: Future[None] | None = None

    def rows_done(self, split: str) -> int:
        """Durable rows of a split; an extraction continues with the row after them."""
        return sum(shard.rows for shard in self._shards.get(f"{split}/tokens", ()))

    def rows_end(self, split: str, total: int) -> int:
        """The end (exclusive) of the rows that this writer stores, of a split of ``total`` rows."""
        return total

    def append(
        self,
        split: str,
        tokens: np.ndarray,
        positions: np.ndarray,
        docs: np.ndarray,
        acts: Mapping[SiteLike, np.ndarray],
        *,
        start: int | None = None,
    ) -> None:
        """Add n rows at the end of a split.

        Args:
            split: ``train`` or ``heldout``.
            tokens: int [n], the token at each row.
            positions: int [n], its position in its window (0 is the first).
            docs: int [n], the number of its document.
            acts: for each site of the plan, float [n, d_model].
            start: row of the split at which these begin. Rows that the split has already are
                skipped, so a batch can be replayed after a restart. None: after the last row.

        Raises:
            UserError: a value is not finite, or an earlier shard could not be written.
            ValueError: shapes, sites or ``start`` do not fit.
        """
        columns = dict(zip(COLUMNS, map(np.asarray, (tokens, positions, docs)), strict=True))
        rows = {as_site(site): np.asarray(values) for site, values in acts.items()}
        self._check_shapes(columns, rows)
        buffer = self._buffers[split]
        start = buffer.position if start is None else start
        at, count = buffer.position - start, len(columns["tokens"])
        end = min(self.rows_end(split, start + count) - start, count)
        if at < min(end, 0):
            raise ValueError(f"rows of {split} begin at {start}; expected {buffer.position}")
        while at < end:
            piece = slice(at, min(at + buffer.room, end))
            buffer.add(
                {name: column[piece] for name, column in columns.items()},
                {site: values[piece] for site, values in rows.items()},
            )
            at = piece.stop
            if buffer.room == 0:
                self._submit(buffer)

    def finish(self) -> Manifest:
        """Write the rows in memory and then the manifest; the cache is complete on return.

        Raises:
            UserError: nothing was appended to ``train``, a document lies in both splits,
                or something could not be written.
        """
        if self._buffers["train"].position == 0:
            raise UserError(f"{self._store.url} would have no training rows; expected some text")
        self._wait()
        rows = {split: buffer.position for split, buffer in self._buffers.items()}
        with self._store.errors(f"cannot write {self._store.url}", "a writable place"):
            # First, so that the last shard is written complete and none is read back.
            for key, array in self._arrays.items():
                self._arrays[key] = resize(array, rows[key.split("/")[0]])
        self._flush()
        empty: Shards = dict.fromkeys(self._arrays, ())
        manifest = finalize(self._store, self.plan, self._digests, empty | self._shards)
        self._store.delete(JOURNAL)
        self.close()
        return manifest

    def _flush(self) -> None:
        """Write the rows in memory, and wait until they are durable."""
        for buffer in self._buffers.values():
            if buffer.count:
                self._submit(buffer)
        self._wait()

    def close(self) -> None:
        """Wait for the shard being written, and unlock the place; rows in memory are lost."""
        self._thread.shutdown(wait=True)
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        self.close()

    def _check_shapes(self, columns: dict[str, np.ndarray], rows: dict[Site, np.ndarray]) -> None:
        count = len(columns["tokens"])
        if tuple(sorted(rows)) != self.plan.sites:
            sites = [", ".join(map(str, names)) for names in (sorted(rows), self.plan.sites)]
            raise ValueError(f"rows are of {sites[0]}; expected {sites[1]}")
        for name, array in [*columns.items(), *rows.items()]:
            expected = (count, self.plan.d_model) if isinstance(name, Site) else (count,)
            if array.shape != expected:
                raise ValueError(f"{name} has shape {array.shape}; expected {expected}")

    def _submit(self, buffer: SplitBuffer) -> None:
        self._wait()  # also because take() gives back the arrays of the shard before
        self._pending = self._thread.submit(self._commit, buffer.start, buffer.take())

    def _wait(self) -> None:
        # The future stays after an error, so no later shard is written past a gap.
        if self._pending is not None:
            self._pending.result()

    def _commit(self, start: int, rows: dict[str, np.ndarray]) -> None:
        what = f"cannot write rows from {start} on to {self._store.url}"
        with self._store.errors(what, "a writable place with free space"):
            write_all((self._arrays[key], start, array) for key, array in rows.items())
        index = start // self.plan.shard_rows
        digests = self._digest_files([shard_key(key, index) for key in rows])
        for (key, array), digest in zip(rows.items(), digests, strict=True):
            self._shards[key] = (*self._shards.get(key, ()), ShardInfo(len(array), digest))
        self._write_journal()

    def _digest_files(self, names: list[str]) -> list[str]:
        digests = []
        for name, digest in zip(names, self._store.digests(names), strict=True):
            if digest is None:
                raise UserError(f"{self._store.name(name)} vanished; expected what was written")
            digests.append(digest)
        return digests

    def _write_vocabulary(self, vocabulary: Vocabulary) -> Shards:
        vocabulary.write(self._store, self.plan)
        step, total = self.plan.shard_rows, self.plan.vocab_size
        counts = [min(step, total - start) for start in range(0, total, step)]
        shards = {}
        for key in self.plan.vocab_arrays():
            digests = self._digest_files([shard_key(key, i) for i in range(len(counts))])
            shards[key] = tuple(map(ShardInfo, counts, digests))
        return shards

    def _write_journal(self) -> None:
        journal = journal_bytes(self.plan, self._digests, self._shards, expected=self._expected)
        self._store.write(JOURNAL, journal)

    def _clear_undurable(self) -> None:
        """Remove files that no journal lists, lock files too, and the anchors of an old cache."""
        kept = {FINAL_NORM, TOKENS} if self._shards else set()
        for key, shards in self._shards.items():
            kept |= {f"{key}/zarr.json", *(shard_key(key, i) for i in range(len(shards)))}
        for folder in ("vocab", *SPLITS, ANCHORS):
            for key in self._store.keys(folder):
                if key not in kept:
                    self._store.delete(key)
