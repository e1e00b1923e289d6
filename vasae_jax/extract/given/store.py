"""Given rows into a cache of their own."""

from typing import Any, Protocol

import numpy as np

from vasae_jax.cache import CachePlan, CacheWriter, Manifest, ModelInfo, TextInfo
from vasae_jax.extract.given.rows import GivenRows, digest, held_out
from vasae_jax.extract.pipeline import Settings, shard_rows
from vasae_jax.system.errors import UserError
from vasae_jax.system.progress import Progress

AT_ONCE = 32 * 2**20
"""Windows of about so many bytes of rows are read at once."""


class TwoEnds(Protocol):
    """What is asked of the rows' model; :class:`vasae_jax.lm.ends.Ends` is one."""

    spec: Any
    tokenizer: Any
    id: str
    revision: str | None

    @property
    def source_digest(self) -> str: ...  # noqa: D102
    def embedding(self) -> np.ndarray: ...  # noqa: D102
    def unembedding(self) -> np.ndarray: ...  # noqa: D102
    def final_norm(self) -> dict[str, Any]: ...  # noqa: D102


def store_rows(
    rows: GivenRows,
    model: TwoEnds,
    url: str,
    layer: int,
    settings: Settings,
    *,
    overwrite: bool = False,
) -> Manifest:
    """Write the cache ``url`` of given rows; run again after a kill it goes on.

    Args:
        rows: the windows; every so-many-th document is held out.
        model: whose embeddings, norm and token strings the cache holds.
        url: new or unfinished cache: a directory or a gs:// or s3:// URL.
        layer: the block whose output the rows are.
        settings: its held-out share, dtype, chunk and shard rows are used.
        overwrite: replace the cache that is there.

    Raises:
        UserError: rows or tokens that are not the model's, a row that is not finite, a place
            that cannot be written.
    """
    _check(rows, model, layer)
    plan = _plan(rows, model, layer, settings)
    away = held_out(rows.docs, settings.heldout_share)
    ends = {
        "embedding": model.embedding(),
        "unembedding": None if model.spec.tied else model.unembedding(),
        "final_norm": model.final_norm(),
        "vocab": model.tokenizer.vocab(),
    }
    with CacheWriter(url, plan, overwrite=overwrite, **ends) as writer:
        _append(rows, writer, away, layer)
        return writer.finish()


def _append(rows: GivenRows, writer: CacheWriter, away: np.ndarray, layer: int) -> None:
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
                    {layer: acts[mine].reshape(-1, rows.width)},
                    start=before[split],
                )
                before[split] += count * length
            progress.update(last * length)
        progress.finish(windows * length)


def _check(rows: GivenRows, model: TwoEnds, layer: int) -> None:
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
    if not 0 <= layer < spec.n_layers:
        raise UserError(f"layer is {layer}; expected 0 to {spec.n_layers - 1} of {model.id}")


def _plan(rows: GivenRows, model: TwoEnds, layer: int, settings: Settings) -> CachePlan:
    spec = model.spec
    bos = model.tokenizer.bos_id
    return CachePlan(
        model=ModelInfo(model.id, model.revision or "", spec.family, model.source_digest),
        layers=(layer,),
        d_model=spec.d_model,
        vocab_size=spec.vocab_size,
        tied=spec.tied,
        dtype=settings.dtype,
        context_length=rows.tokens.shape[1],
        bos=bos is not None and bool((rows.tokens[:, 0] == bos).all()),
        text=TextInfo(f"rows of {rows.where}", digest(rows)),
        heldout_share=settings.heldout_share,
        chunk_rows=settings.chunk_rows,
        computed="by another program",
        shard_rows=settings.shard_rows or shard_rows(settings, spec.d_model),
    )
