"""Reading a finished cache."""

import contextlib
import math
import os
from collections.abc import Iterator
from typing import Any, Self

import ml_dtypes  # noqa: F401 (registers bfloat16 with NumPy)
import numpy as np
import tensorstore as ts

from vasae_jax.cache.manifest import (
    COLUMNS,
    EMBEDDING,
    FINAL_NORM,
    JOURNAL,
    MANIFEST,
    SPLITS,
    TOKENS,
    UNEMBEDDING,
    Manifest,
    decode,
    shards_from_json,
)
from vasae_jax.cache.store import Store, wait
from vasae_jax.cache.vocab import Vocab, check_final_norm, check_tokens, digest_name
from vasae_jax.sites import SiteLike, as_site
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import sha256_array, sha256_bytes
from vasae_jax.utils.shown import shown


class PendingRows:
    """A read of rows that has begun."""

    def __init__(self, array: "RowArray", start: int, stop: int, out: np.ndarray) -> None:
        self._out, self._errors = out, array.store.errors
        self._what = f"cannot read rows {start} to {stop} of {array.name}"
        self._future = ts.array(out).write(array.tensorstore[start:stop]).commit

    def result(self) -> np.ndarray:
        """Wait for the rows, [n, d_model] or [n].

        Raises:
            UserError: a chunk is missing or damaged.
        """
        with self._errors(self._what, "the bytes that were written (see vasae cache verify)"):
            wait(self._future)
        return self._out


class RowArray:
    """One array of a split: [rows, d_model] or [rows].

    Attributes:
        shape, dtype: as NumPy's (``ml_dtypes.bfloat16`` where rows are stored so).
        chunk_rows: rows that are read and checked as one.
        name: full name, for messages.
    """

    def __init__(self, store: Store, key: str, metadata: dict[str, Any], chunk_rows: int) -> None:
        self.store = store
        self.name = store.name(key)
        self.tensorstore: ts.TensorStore = store.open_array(key, metadata)
        self.shape: tuple[int, ...] = tuple(self.tensorstore.shape)
        self.dtype: np.dtype = np.dtype(metadata["data_type"])
        self.chunk_rows = chunk_rows
        self._key = key
        self._shard_rows: int = metadata["chunk_grid"]["configuration"]["chunk_shape"][0]

    def read_async(self, start: int, stop: int) -> PendingRows:
        """Begin to read rows ``start`` to ``stop`` (exclusive).

        Raises:
            UserError: a file has not so many bytes.
        """
        self._check_sizes(start, stop)
        out = np.empty((stop - start, *self.shape[1:]), self.dtype)
        return PendingRows(self, start, stop, out)

    def read_into(self, start: int, stop: int, out: np.ndarray) -> PendingRows:
        """Like :meth:`read_async`, into ``out`` of the right type, [n, d_model] or [n]."""
        self._check_sizes(start, stop)
        return PendingRows(self, start, stop, out)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop`` (exclusive), [n, d_model] or [n].

        Raises:
            UserError: a chunk is missing or damaged.
        """
        return self.read_async(start, stop).result()

    def _check_sizes(self, start: int, stop: int) -> None:
        """Compare rows ``start`` to ``stop``, which are not compressed, with their files' sizes."""
        row_bytes = self.dtype.itemsize * math.prod(self.shape[1:])
        for shard in range(start // self._shard_rows, -(-stop // self._shard_rows)):
            key = f"{self._key}/c/{shard}" + "/0" * (len(self.shape) - 1)
            first = shard * self._shard_rows
            rows = min(first + self._shard_rows, stop) - first
            size = self.store.size(key)
            if size is not None and size < rows * row_bytes:
                raise UserError(
                    f"cannot read rows {start} to {stop} of {self.name}: {self.store.name(key)} "
                    f"has {size:,} bytes; expected at least {rows * row_bytes:,} (see vasae cache "
                    "verify)"
                )


class Cache:
    """A finished cache; see :meth:`open`.

    Attributes:
        url: its place.
        manifest: what it holds.
        digest: SHA-256 of the manifest's bytes, hexadecimal: the identity of the cache.
    """

    def __init__(self, url: str) -> None:
        self._store = store = Store(url)
        self.url = store.url
        data = store.read(MANIFEST)
        if data is None:
            raise UserError(_why_no_manifest(store))
        self.manifest = Manifest.from_json(decode(data, store.name(MANIFEST)), store.url)
        self.digest = sha256_bytes(data)

    @classmethod
    def open(cls, url: str) -> Self:
        """Open the cache at a local directory, a gs:// or s3:// URL.

        Raises:
            UserError: there is none, it is unfinished, of a newer version, or something else.
        """
        return cls(url)

    def acts(self, site: SiteLike, split: str) -> RowArray:
        """The rows of a site (a layer's number is its ``resid_post``), [rows, d_model].

        Raises:
            UserError: the cache has no such site or split.
        """
        return self._site_rows("acts", site, split)

    def norms(self, site: SiteLike, split: str) -> RowArray:
        """The L2 norms of a site's stored rows, float32 [rows]; errors as :meth:`acts`."""
        return self._site_rows("norms", site, split)

    def column(self, name: str, split: str) -> RowArray:
        """``tokens``, ``positions`` or ``docs``, int32 [rows]."""
        if name not in COLUMNS:
            raise UserError(f"a cache has no column {name!r}; expected {', '.join(COLUMNS)}")
        return self._rows(f"{split}/{name}", split)

    def rows(self, split: str) -> int:
        """How many rows a split has; UserError if there is none of that name."""
        if split not in self.manifest.splits:
            names = ", ".join(self.manifest.splits)
            raise UserError(f"{self.url} has no split {split!r}; expected one of {names}")
        return self.manifest.splits[split].rows

    def embedding(self) -> np.ndarray:
        """The model's input embeddings, float32 [vocab_size, d_model].

        Raises:
            UserError: their digest is not the manifest's.
        """
        return self._vocab_array(EMBEDDING)

    def unembedding(self) -> np.ndarray:
        """The model's unembedding, float32 [vocab_size, d_model] (the embedding if tied)."""
        return self._vocab_array(EMBEDDING if self.manifest.tied else UNEMBEDDING)

    def final_norm(self) -> dict[str, Any]:
        """The norm before the unembedding: ``{"kind", "eps", "weight", "bias"}``."""
        norm = self._json(FINAL_NORM)
        with self._naming(FINAL_NORM):
            check_final_norm(norm, self.manifest.d_model)
        return norm

    def vocab(self) -> Vocab:
        """The token strings, one for each embedding row.

        Raises:
            UserError: their digest is not the manifest's.
        """
        value = self._json(TOKENS)
        with self._naming(TOKENS):
            vocab = Vocab.from_json(value)
            check_tokens(vocab, self.manifest.vocab_size)
        return vocab

    def _site_rows(self, name: str, site: SiteLike, split: str) -> RowArray:
        site = as_site(site)
        if site not in self.manifest.sites:
            names = ", ".join(map(str, self.manifest.sites))
            raise UserError(f"{self.url} has no {site}; expected one of {names}")
        return self._rows(self.manifest.site_key(split, name, site), split)

    @contextlib.contextmanager
    def _naming(self, key: str) -> Iterator[None]:
        """Put the name of the file at ``key`` before the sentence of a UserError."""
        try:
            yield
        except UserError as error:
            raise UserError(f"{self._store.name(key)}: {error}") from error

    def _rows(self, key: str, split: str) -> RowArray:
        rows = self.rows(split)
        if rows == 0:
            raise UserError(
                f"{self.url} has no rows in its split {split!r}; expected some (extract from "
                "more documents, or hold out a larger share of them)"
            )
        metadata = self.manifest.split_arrays(split, rows)[key]
        return RowArray(self._store, key, metadata, self.manifest.chunk_rows)

    def _vocab_array(self, key: str) -> np.ndarray:
        manifest = self.manifest
        array = RowArray(self._store, key, manifest.vocab_metadata(), manifest.chunk_rows)
        rows = array.read(0, manifest.vocab_size)
        self._check_digest(key, sha256_array(rows))
        return rows

    def _json(self, key: str) -> dict[str, Any]:
        data = self._store.read(key)
        if data is None:
            raise UserError(f"{self._store.name(key)} is missing; expected it in a cache")
        self._check_digest(key, sha256_bytes(data))
        return decode(data, self._store.name(key))

    def _check_digest(self, key: str, digest: str) -> None:
        """Raise UserError unless ``digest`` is the manifest's for this part of the vocabulary."""
        expected = self.manifest.digests.get(digest_name(key))
        if digest != expected:
            raise UserError(
                f"{self._store.name(key)} has content of SHA-256 {digest}; expected {expected}"
            )


def _why_no_manifest(store: Store) -> str:
    """The sentence for a place that holds no finished cache."""
    data = store.read(JOURNAL)
    if data is not None:
        try:
            journal = decode(data, JOURNAL)
            shards = shards_from_json(journal["shards"])
            done = sum(shard.rows for s in SPLITS for shard in shards.get(f"{s}/tokens", ()))
            total = sum(journal.get("expected", {}).values())
            state = f"{done:,} rows done" + (f" of {total:,}" if total else "")
        except (UserError, KeyError, TypeError, AttributeError, ValueError):
            state = f"a {JOURNAL} that cannot be understood"
        return (
            f"{store.url} is an unfinished cache with {state}; expected a complete one (run its "
            "extraction again to continue it)"
        )
    content = "nothing" if store.empty() else f"no {MANIFEST}"
    return f"{store.url} is no activation cache: found {content}; expected a {MANIFEST}"


def open_cache(url: str | os.PathLike[str]) -> Cache:
    """Open a finished activation cache: a directory, or a ``gs://`` or ``s3://`` URL.

    ``cache.acts(site, split).read(start, stop)`` gives rows [n, d_model], ``cache.column`` their
    tokens, positions and documents, ``cache.vocab()`` the token strings.

    >>> cache = vj.open_cache(url)
    >>> site = cache.manifest.sites[0]
    >>> x = cache.acts(site, "heldout").read(0, 100)
    >>> x.shape == (100, cache.manifest.d_model)
    True

    Raises:
        UserError: there is no cache, it is not finished, or its manifest is damaged.
    """
    return Cache.open(os.fspath(url))


def info(url: str) -> str:
    """A summary of the cache at ``url`` to print; raises UserError if there is none."""
    cache = Cache.open(url)
    manifest = cache.manifest
    rows = sum(split.rows for split in manifest.splits.values())
    width = len(manifest.sites) * (manifest.d_model * np.dtype(manifest.dtype).itemsize + 4) + 12
    model = manifest.model
    lines = {
        "cache": cache.url,
        "complete": f"yes, by {manifest.created_by}",
        "model": f"{model.id} ({model.family}, revision {model.revision})",
        "sites": ", ".join(map(str, manifest.sites)),
        "d_model": str(manifest.d_model),
        "vocabulary": f"{manifest.vocab_size:,} tokens, {'tied' if manifest.tied else 'untied'}",
        "computed": manifest.computed or "not stated",
        "context": f"{manifest.context_length} tokens, {'with' if manifest.bos else 'without'} BOS",
        "text": manifest.text.source,
    }
    for name, split in manifest.splits.items():
        lines[name] = f"{split.rows:,} rows of {split.documents:,} documents"
    lines["size"] = f"{rows * width / 1e6:,.1f} MB of rows as {manifest.dtype}"
    lines["digest"] = cache.digest
    return "\n".join(f"{key:<12}{shown(value)}" for key, value in lines.items())
