"""Rows of windows of equal length, as another program left them."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vasae_jax.cache import Cache, CacheWriter, Manifest, RowArray, TextInfo
from vasae_jax.extract.model import VocabularySource
from vasae_jax.extract.pipeline import Settings, make_plan, model_vocabulary
from vasae_jax.sites import Site, SiteLike
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import atomic_file, refuse_existing
from vasae_jax.utils.progress import Progress

Read = Callable[[int, int], np.ndarray]


@dataclass(frozen=True)
class GivenRows:
    """W windows of T rows of width d, and where to read them."""

    where: str
    """The source, for messages."""
    tokens: np.ndarray
    """int32 [W, T]"""
    docs: np.ndarray
    """int32 [W], the document of each window, ascending"""
    width: int
    read: Read
    """read(first, last): rows of windows first to last (exclusive), float [n, T, d]"""
    site: Site | None = None
    """The site of the rows, where the source says so."""


def make_rows(
    where: str,
    shape: tuple[int, ...],
    read: Read,
    tokens: np.ndarray,
    docs: np.ndarray | None = None,
    site: Site | None = None,
) -> GivenRows:
    """Given rows, counted.

    Args:
        where: the source, for messages.
        shape: of the rows, [W, T, d].
        read: as :class:`GivenRows` has it.
        tokens: int [W, T].
        docs: int [W], ascending; without it each window is a document.
        site: of the rows, where the source says so.

    Raises:
        UserError: counts that do not agree, tokens that are none, documents out of order.
    """
    if len(shape) != 3 or 0 in shape:
        raise UserError(f"{where} has rows of shape {shape}; expected [windows, positions, width]")
    if tokens.shape != shape[:2] or not np.issubdtype(tokens.dtype, np.integer):
        raise UserError(
            f"{where} has tokens of shape {tokens.shape} and type {tokens.dtype} for rows of "
            f"shape {shape}; expected a whole number for each row"
        )
    docs = np.arange(shape[0]) if docs is None else docs
    if docs.shape != shape[:1] or (np.diff(docs) < 0).any():
        raise UserError(
            f"{where} has documents of shape {docs.shape}; expected an ascending number for each "
            f"of the {shape[0]} windows"
        )
    return GivenRows(where, tokens.astype(np.int32), docs.astype(np.int32), shape[2], read, site)


def digest(rows: GivenRows) -> str:
    """SHA-256 over the tokens and documents: what stands for the text, which is not known."""
    found = hashlib.sha256(np.ascontiguousarray(rows.tokens).tobytes())
    found.update(np.ascontiguousarray(rows.docs).tobytes())
    return found.hexdigest()


def held_out(docs: np.ndarray, share: float) -> np.ndarray:
    """bool [W]: every so-many-th document of ``docs`` [W], such that ``share`` of them are."""
    number = np.unique(docs, return_inverse=True)[1]
    chosen: np.ndarray = np.floor((number + 1) * share) > np.floor(number * share)
    return chosen


# Given rows into a cache of their own.


AT_ONCE = 32 * 2**20
"""Windows of about so many bytes of rows are read at once."""


def store_rows(
    rows: GivenRows,
    model: VocabularySource,
    url: str,
    site: Site,
    settings: Settings,
    *,
    overwrite: bool = False,
) -> Manifest:
    """Write the cache ``url`` of given rows; run again after a kill it goes on.

    Args:
        rows: the windows; every so-many-th document is held out.
        model: whose embeddings, norm and token strings the cache holds.
        url: new or unfinished cache: a directory or a gs:// or s3:// URL.
        site: of the rows.
        settings: its held-out share, dtype, chunk and shard rows are used.
        overwrite: replace the cache that is there.

    Raises:
        UserError: rows or tokens that are not the model's, a row that is not finite, a place
            that cannot be written.
    """
    _check(rows, model, site)
    bos = model.tokenizer.bos_id
    plan = make_plan(
        model,
        settings,
        (site,),
        context_length=rows.tokens.shape[1],
        bos=bos is not None and bool((rows.tokens[:, 0] == bos).all()),
        text=TextInfo(f"rows of {rows.where}", digest(rows)),
        computed="by another program",
    )
    away = held_out(rows.docs, settings.heldout_share)
    with CacheWriter(url, plan, overwrite=overwrite, **model_vocabulary(model)) as writer:
        _append(rows, writer, away, site)
        return writer.finish()


def _append(rows: GivenRows, writer: CacheWriter, away: np.ndarray, site: Site) -> None:
    windows, length = rows.tokens.shape
    size = max(1, AT_ONCE // (4 * length * rows.width))
    positions = np.arange(length, dtype=np.int32)
    before = {"train": 0, "heldout": 0}
    with Progress(windows * length) as progress:
        for first in range(0, windows, size):
            last = min(first + size, windows)
            acts = rows.read(first, last)
            for split, mine in (("train", ~away[first:last]), ("heldout", away[first:last])):
                count = int(mine.sum())
                writer.append(
                    split,
                    rows.tokens[first:last][mine].reshape(-1),
                    np.tile(positions, count),
                    np.repeat(rows.docs[first:last][mine], length),
                    {site: acts[mine].reshape(-1, rows.width)},
                    start=before[split],
                )
                before[split] += count * length
            progress.update(last * length)
        progress.finish(windows * length)


def _check(rows: GivenRows, model: VocabularySource, site: Site) -> None:
    spec = model.spec
    if rows.width != spec.d_model:
        raise UserError(
            f"{rows.where} has rows of width {rows.width}; expected {spec.d_model} of {model.id}"
        )
    low, high = int(rows.tokens.min()), int(rows.tokens.max())
    if low < 0 or high >= spec.vocab_size:
        raise UserError(
            f"{rows.where} has token {high if low >= 0 else low}; expected 0 to "
            f"{spec.vocab_size - 1}, the vocabulary of {model.id}"
        )
    if not 0 <= site.layer < spec.n_layers:
        raise UserError(f"layer is {site.layer}; expected 0 to {spec.n_layers - 1} of {model.id}")


# A cache's rows as NumPy files.


EXPORT_AT_ONCE = 32 * 2**20
"""Bytes of rows read at once, about."""


def export_rows(
    cache: Cache, site: SiteLike, split: str, folder: Path, overwrite: bool = False
) -> tuple[Path, ...]:
    """Write rows.npy float32 [N, d], tokens.npy, positions.npy and docs.npy int32 [N].

    Raises:
        UserError: no such site or split, damaged rows, an existing file (and ``overwrite`` was
            not asked for), or a place that cannot be written.
    """
    arrays = {name: cache.column(name, split) for name in ("tokens", "positions", "docs")}
    arrays["rows"] = cache.acts(site, split)
    paths = {name: folder / f"{name}.npy" for name in arrays}
    for path in paths.values():
        refuse_existing(path, overwrite=overwrite)
    for name, array in arrays.items():
        _write(paths[name], array, np.dtype(np.float32 if name == "rows" else np.int32))
    return tuple(paths.values())


def _write(path: Path, array: RowArray, dtype: np.dtype) -> None:
    count = array.shape[0]
    width = int(np.prod(array.shape[1:], dtype=np.int64))
    size = max(1, EXPORT_AT_ONCE // (dtype.itemsize * max(width, 1)))
    header = {"descr": dtype.str, "fortran_order": False, "shape": array.shape}
    with atomic_file(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, count, size):
            part = array.read(first, min(first + size, count))
            file.write(np.ascontiguousarray(part, dtype).tobytes())
