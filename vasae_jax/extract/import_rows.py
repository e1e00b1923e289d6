"""Rows of another program into a cache, and rows of a cache out as NumPy files."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vasae_jax.cache import Cache, CacheWriter, Manifest, RowArray, TextInfo
from vasae_jax.cache.manifest import COLUMNS, SPLITS
from vasae_jax.extract.model import VocabularySource, read_vocabulary
from vasae_jax.extract.pipeline import Settings, make_plan
from vasae_jax.sites import Site, SiteLike
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import atomic_file, refuse_existing, sha256_bytes
from vasae_jax.utils.progress import Progress

PIECE_BYTES = 32 * 2**20
"""About how many bytes of rows are read at once."""


@dataclass
class ExternalRows:
    """Rows of W windows of equal length T, as another program stored them.

    Attributes:
        source: their place, for messages.
        shape: of the rows, [W, T, d].
        read: ``read(first, last)`` gives the rows of windows first to last (exclusive), float
            [n, T, d].
        tokens: int [W, T]; int32 once checked.
        docs: int [W], the document of each window, ascending; None: each window is a document.
        site: of the rows, where the source states it.

    Raises:
        UserError: counts that do not agree, tokens that are not integers, documents out of order.
    """

    source: str
    shape: tuple[int, ...]
    read: Callable[[int, int], np.ndarray]
    tokens: np.ndarray
    docs: np.ndarray | None = None
    site: Site | None = None

    def __post_init__(self) -> None:
        source, shape, tokens = self.source, self.shape, self.tokens
        if len(shape) != 3 or 0 in shape:
            raise UserError(
                f"{source} has rows of shape {shape}; expected [windows, positions, width]"
            )
        if tokens.shape != shape[:2] or not np.issubdtype(tokens.dtype, np.integer):
            raise UserError(
                f"{source} has tokens of shape {tokens.shape} and type {tokens.dtype} for rows of "
                f"shape {shape}; expected an integer for each row"
            )
        docs = np.arange(shape[0]) if self.docs is None else self.docs
        if docs.shape != shape[:1] or (np.diff(docs) < 0).any():
            raise UserError(
                f"{source} has documents of shape {docs.shape}; expected an ascending number for "
                f"each of the {shape[0]} windows"
            )
        self.tokens, self.docs = tokens.astype(np.int32), docs.astype(np.int32)


def store_rows(
    rows: ExternalRows,
    model: VocabularySource,
    url: str,
    site: Site,
    settings: Settings,
    *,
    overwrite: bool = False,
) -> Manifest:
    """Write the cache ``url`` of ``rows``; run again after an interruption, it continues.

    Args:
        rows: the windows; a share of the documents, evenly spaced, is held out.
        model: whose embeddings, norm and token strings the cache holds.
        url: new or unfinished cache: a directory or a gs:// or s3:// URL.
        site: of the rows.
        settings: its held-out share, dtype, chunk and shard rows are used.
        overwrite: replace an existing cache.

    Raises:
        UserError: rows or tokens that do not fit the model, a row that is not finite, a place
            that cannot be written.
    """
    _check_model(rows, model, site)
    tokens, docs, bos = rows.tokens, np.asarray(rows.docs), model.tokenizer.bos_id
    plan = make_plan(
        model,
        settings,
        (site,),
        context_length=rows.shape[1],
        bos=bos is not None and bool((tokens[:, 0] == bos).all()),
        # The text is not known; the digest is that of tokens and documents.
        text=TextInfo(
            f"rows of {rows.source}", sha256_bytes(tokens.tobytes() + docs.tobytes()), ""
        ),
        computed="by another program",
    )
    heldout = held_out(docs, settings.heldout_share)
    vocabulary = read_vocabulary(model)
    with CacheWriter(url, plan, vocabulary, overwrite=overwrite) as writer:
        _append(rows, docs, heldout, writer, site)
        return writer.finish()


def held_out(docs: np.ndarray, share: float) -> np.ndarray:
    """bool [W]: evenly spaced documents of ``docs`` [W], ``share`` of them."""
    number = np.unique(docs, return_inverse=True)[1]
    chosen: np.ndarray = np.floor((number + 1) * share) > np.floor(number * share)
    return chosen


def _append(
    rows: ExternalRows, docs: np.ndarray, heldout: np.ndarray, writer: CacheWriter, site: Site
) -> None:
    windows, length, width = rows.shape
    size = max(1, PIECE_BYTES // (4 * length * width))
    written = dict.fromkeys(SPLITS, 0)
    with Progress(windows * length) as progress:
        for first in range(0, windows, size):
            last = min(first + size, windows)
            acts = rows.read(first, last)
            for split in SPLITS:
                chosen = heldout[first:last] == (split == "heldout")
                count = int(chosen.sum())
                writer.append(
                    split,
                    rows.tokens[first:last][chosen].reshape(-1),
                    np.tile(np.arange(length, dtype=np.int32), count),
                    np.repeat(docs[first:last][chosen], length),
                    {site: acts[chosen].reshape(-1, width)},
                    start=written[split],
                )
                written[split] += count * length
            progress.update(last * length)
        progress.finish(windows * length)


def _check_model(rows: ExternalRows, model: VocabularySource, site: Site) -> None:
    spec, width = model.spec, rows.shape[2]
    if width != spec.d_model:
        raise UserError(
            f"{rows.source} has rows of width {width}; expected {spec.d_model} of {model.id}"
        )
    low, high = int(rows.tokens.min()), int(rows.tokens.max())
    if low < 0 or high >= spec.vocab_size:
        raise UserError(
            f"{rows.source} has token {high if low >= 0 else low}; expected 0 to "
            f"{spec.vocab_size - 1}, the vocabulary of {model.id}"
        )
    if not 0 <= site.layer < spec.n_layers:
        raise UserError(f"layer is {site.layer}; expected 0 to {spec.n_layers - 1} of {model.id}")


def export_rows(
    cache: Cache, site: SiteLike, split: str, folder: Path, overwrite: bool = False
) -> tuple[Path, ...]:
    """Write rows.npy float32 [N, d], tokens.npy, positions.npy and docs.npy int32 [N].

    Raises:
        UserError: no such site or split, damaged rows, an existing file without ``overwrite``,
            or a place that cannot be written.
    """
    arrays = {name: cache.column(name, split) for name in COLUMNS}
    arrays["rows"] = cache.acts(site, split)
    paths = {name: folder / f"{name}.npy" for name in arrays}
    for path in paths.values():
        refuse_existing(path, overwrite=overwrite)
    for name, array in arrays.items():
        _write(paths[name], array, np.dtype(np.float32 if name == "rows" else np.int32))
    return tuple(paths.values())


def _write(path: Path, array: RowArray, dtype: np.dtype) -> None:
    count = array.shape[0]
    size = max(1, PIECE_BYTES // (dtype.itemsize * max(math.prod(array.shape[1:]), 1)))
    header = {"descr": dtype.str, "fortran_order": False, "shape": array.shape}
    with atomic_file(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, count, size):
            rows = array.read(first, min(first + size, count))
            file.write(np.ascontiguousarray(rows, dtype).tobytes())
