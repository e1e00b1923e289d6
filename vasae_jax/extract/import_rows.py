"""Rows of another program into a cache, and rows of a cache out as NumPy files."""

import math
from pathlib import Path

import numpy as np

from vasae_jax.cache import Cache, CacheWriter, Manifest, RowArray, TextInfo
from vasae_jax.cache.manifest import COLUMNS, SPLITS
from vasae_jax.extract.external_rows import ExternalRows
from vasae_jax.extract.model import VocabularySource, read_vocabulary
from vasae_jax.extract.pipeline import Settings, make_plan
from vasae_jax.extract.row_places import IN_ORDER, Order, Placed, place_rows
from vasae_jax.sites import Site, SiteLike
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import atomic_file, refuse_existing, sha256_bytes
from vasae_jax.utils.progress import Progress

PIECE_BYTES = 32 * 2**20
"""About how many bytes of rows are read at once."""


def store_rows(
    rows: ExternalRows,
    model: VocabularySource,
    url: str,
    site: Site,
    settings: Settings,
    *,
    order: Order = IN_ORDER,
    overwrite: bool = False,
) -> Manifest:
    """Write the cache ``url`` of ``rows``; run again after an interruption, it continues.

    Args:
        rows: the windows; a share of the documents, evenly spaced, is held out.
        model: whose embeddings, norm and token strings the cache holds.
        url: new or unfinished cache: a directory or a gs:// or s3:// URL.
        site: of the rows.
        settings: its held-out share, dtype, chunk and shard rows are used.
        order: how the rows lie, where tokens and mask do not tell.
        overwrite: replace an existing cache.

    Raises:
        UserError: rows or tokens that do not fit the model, positions that cannot be known, a
            row that is not finite, a place that cannot be written.
    """
    _check_model(rows, model, site)
    placed = place_rows(rows, model.tokenizer, settings.heldout_share, order)
    positions = placed.positions[placed.keep]
    longest = int(np.maximum(positions, 0).max()) + 1
    plan = make_plan(
        model,
        settings,
        (site,),
        context_length=longest if order.shuffled else max(longest, rows.shape[1]),
        bos=placed.bos,
        text=TextInfo(f"rows of {rows.source}", _digest(rows, placed), special_tokens=""),
        computed="by another program",
    )
    vocabulary = read_vocabulary(model)
    with CacheWriter(url, plan, vocabulary, overwrite=overwrite) as writer:
        _append(rows, placed, writer, site)
        return writer.finish()


def _digest(rows: ExternalRows, placed: Placed) -> str:
    """SHA-256 of tokens, documents and, unless they are plain, positions: the text is not known."""
    if placed.plain and (rows.docs is None or rows.docs.ndim == 1):
        return sha256_bytes(rows.tokens.tobytes() + placed.docs[:, 0].tobytes())
    columns = (rows.tokens, placed.docs, placed.positions)
    return sha256_bytes(b"".join(column[placed.keep].tobytes() for column in columns))


def _append(rows: ExternalRows, placed: Placed, writer: CacheWriter, site: Site) -> None:
    windows, length, width = rows.shape
    size = max(1, PIECE_BYTES // (4 * length * width))
    written = dict.fromkeys(SPLITS, 0)
    with Progress(windows * length) as progress:
        for first in range(0, windows, size):
            last = min(first + size, windows)
            acts = rows.read(first, last)
            for split in SPLITS:
                chosen = placed.keep[first:last].copy()
                chosen &= placed.heldout[first:last] == (split == "heldout")
                writer.append(
                    split,
                    rows.tokens[first:last][chosen],
                    placed.positions[first:last][chosen],
                    placed.docs[first:last][chosen],
                    {site: acts[chosen]},
                    start=written[split],
                )
                written[split] += int(chosen.sum())
            progress.update(last * length)
        progress.finish(windows * length)


def _check_model(rows: ExternalRows, model: VocabularySource, site: Site) -> None:
    spec, width = model.spec, rows.shape[2]
    if width != spec.d_model:
        raise UserError(
            f"{rows.source} has rows of width {width}; expected {spec.d_model} of {model.id}"
        )
    high = int(rows.tokens.max())
    if high >= spec.vocab_size:
        raise UserError(
            f"{rows.source} has token {high}; expected 0 to "
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
