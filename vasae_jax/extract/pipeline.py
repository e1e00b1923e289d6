"""Extraction: a model and documents in, a finished activation cache of all sites out."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vasae_jax.cache import Cache, CacheWriter, Manifest, Part, PartWriter
from vasae_jax.cache.manifest import SPLITS, CachePlan, ModelInfo, TextInfo
from vasae_jax.cache.overlap import RUN
from vasae_jax.extract.model import (
    Model,
    VocabularySource,
    choose_sites,
    packs,
    read_vocabulary,
    special_ids,
)
from vasae_jax.extract.passes import Batches, run_passes
from vasae_jax.extract.repeats import without_repeats
from vasae_jax.extract.special_tokens import MODES, TextReader
from vasae_jax.extract.text import Document, Text
from vasae_jax.extract.windows import Windows, batch_size, make_windows, pack, unpacked
from vasae_jax.sites import Site
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.progress import Progress
from vasae_jax.utils.streams import note

SHARD_BYTES = 512 * 2**20
SHARD_ROWS = 32768


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How text becomes rows.

    Attributes:
        layers: 0-based, or None for all of them.
        sites: kinds of the sites in each layer.
        context_length: tokens in the longest window, the BOS included.
        batch_windows: the most windows of full length in one forward pass.
        bos: put a BOS before every window; None follows the model's tokenizer.
        special_tokens: what becomes of special tokens that the text spells: ``text`` keeps them
            as plain characters, ``parse`` makes them tokens, ``split`` ends a document at each.
        heldout_share: share of documents held out, over 0 and below 1.
        max_rows: the most rows (tokens) to extract over both splits, or None for all.
        dtype: how rows are stored, ``bfloat16`` or ``float32``.
        chunk_rows: rows of one chunk of the cache.
        shard_rows: rows of one file, or None for about 512 MB of all sites.
    """

    layers: tuple[int, ...] | None = None
    sites: tuple[str, ...] = ("resid_post",)
    context_length: int = 128
    batch_windows: int = 32
    bos: bool | None = None
    special_tokens: str = "text"
    heldout_share: float = 0.1
    max_rows: int | None = None
    dtype: str = "bfloat16"
    chunk_rows: int = 2048
    shard_rows: int | None = None


def extract(
    model: Model,
    documents: Iterable[Document],
    url: str,
    settings: Settings,
    *,
    source: str,
    overwrite: bool = False,
    part: Part | None = None,
) -> Manifest | None:
    """Write the cache ``url`` of the model's rows over ``documents``.

    Called again with the same arguments after an interruption, it continues after the last
    durable shard, and the finished cache equals an uninterrupted one: windows and batches
    depend on the text, the settings and the model's mesh alone.

    Args:
        model: a language model; its weights may be loaded on first use.
        documents: texts, token ids or lists of messages; see
            :func:`vasae_jax.extract.read_documents`.
        url: new or unfinished cache: a directory or a gs:// or s3:// URL.
        settings: how text becomes rows.
        source: the text's origin, for the manifest.
        overwrite: replace the cache that is there.
        part: the part to write, if the cache is written in parts by several jobs;
            :func:`vasae_jax.cache.finish` then joins them.

    Returns:
        The manifest of the finished cache; None for a part.

    Raises:
        UserError: an unusable setting, text, output or row. Settings, place and text are
            checked before the model's weights are used, and all before anything compiles.
        Stopped: SIGINT or SIGTERM came; durable rows stay.
    """
    sites = choose_sites(settings.layers, settings.sites, model.spec.n_layers, model.id)
    _check_settings(settings, model)
    _check_place(url, overwrite)
    windows = without_repeats(_read(documents, model, settings))
    batches = make_batches(windows, model, settings.batch_windows)
    vocabulary = read_vocabulary(model)
    batching = f"{'packed, ' if packs(model) else ''}{batches.size} windows at once"
    plan = make_plan(
        model,
        settings,
        sites,
        context_length=settings.context_length,
        bos=batches.windows.bos,
        text=TextInfo(source, batches.windows.digest, settings.special_tokens),
        computed=f"{model.computed}, {batching}, held-out repeats of {RUN} tokens left out",
    )
    rows = {split: batches.windows.count(split)[0] for split in SPLITS}
    if part is not None:
        with PartWriter(url, plan, vocabulary, rows, part) as part_writer:
            run_passes(model, batches, sites, settings.dtype, part_writer)
            part_writer.finish_part()
        return None
    with CacheWriter(url, plan, vocabulary, overwrite=overwrite, expected=rows) as writer:
        run_passes(model, batches, sites, settings.dtype, writer)
        return writer.finish()


def _read(documents: Iterable[Document], model: Model, settings: Settings) -> Windows:
    bos_id = _bos_id(model, settings.bos)
    reader = TextReader(model.tokenizer, settings.special_tokens)
    with Progress(None, unit="tokens of text read") as progress:
        windows = make_windows(
            reader.documents(documents),
            partial(token_ids, model, encode=reader.encode),
            settings.context_length,
            bos_id=bos_id,
            heldout_share=settings.heldout_share,
            max_rows=settings.max_rows,
            report=progress.update,
        )
        progress.finish(len(windows.tokens))
    if summary := reader.summary():
        note(summary)
    return windows


def token_ids(
    model: VocabularySource, document: Text, encode: Callable[[str], list[int]]
) -> list[int]:
    """The token ids of a document, tokenised unless it holds ids; UserError for an unknown id."""
    if isinstance(document, str):
        return encode(document)
    low, high = min(document, default=0), max(document, default=0)
    if low < 0 or high >= model.spec.vocab_size:
        raise UserError(
            f"it has token id {low if low < 0 else high}; expected 0 to "
            f"{model.spec.vocab_size - 1}, the vocabulary of {model.id}"
        )
    if len(document) > 2 and document[-1] == document[-2] in special_ids(model.tokenizer):
        raise UserError(
            f"its token ids end in {document[-1]} twice, a special "
            "token; expected an attention_mask beside them that is 0 at padding"
        )
    return document


def make_batches(windows: Windows, model: Model, most: int) -> Batches:
    """The forward passes over a text, of at most ``most`` slots; packed where the model can."""
    count, length = len(windows.docs), windows.context_length
    packing = pack(windows.lengths, length) if packs(model) else unpacked(count)
    multiple = getattr(model, "batch_multiple", 1)
    return Batches(windows, packing, batch_size(packing.slots, most, multiple))


def make_plan(
    model: VocabularySource, settings: Settings, sites: tuple[Site, ...], **stated: Any
) -> CachePlan:
    """The plan of a cache of ``model``.

    Args:
        model: of the rows.
        settings: its dtype, held-out share, chunk and shard rows are used.
        sites: of the rows.
        stated: the other fields of CachePlan: context_length, bos, text and computed.
    """
    spec = model.spec
    return CachePlan(
        model=ModelInfo(model.id, model.revision or "", spec.family, model.source_digest),
        sites=sites,
        d_model=spec.d_model,
        vocab_size=spec.vocab_size,
        tied=spec.tied,
        dtype=settings.dtype,
        heldout_share=settings.heldout_share,
        chunk_rows=settings.chunk_rows,
        shard_rows=settings.shard_rows or shard_rows(settings, spec.d_model * len(sites)),
        **stated,
    )


def shard_rows(settings: Settings, width: int) -> int:
    """Rows in one shard: about SHARD_BYTES of ``width`` numbers a row, in whole chunks."""
    row_bytes = width * (2 if settings.dtype == "bfloat16" else 4)
    rows = min(SHARD_ROWS, SHARD_BYTES // row_bytes)
    return max(rows // settings.chunk_rows, 1) * settings.chunk_rows


def _bos_id(model: Model, bos: bool | None) -> int | None:
    """The token before each window, or None."""
    tokenizer = model.tokenizer
    if not (tokenizer.add_bos if bos is None else bos):
        return None
    if tokenizer.bos_id is None:
        raise UserError(f"{model.id} has no BOS token; expected --bos no for it")
    return int(tokenizer.bos_id)


def _check_settings(settings: Settings, model: Model) -> None:
    limits = [model.spec.context_length, getattr(model.spec, "window", None)]
    longest = min((limit for limit in limits if limit), default=None)
    if settings.context_length < 2 or (longest and settings.context_length > longest):
        raise UserError(
            f"context length is {settings.context_length}; expected 2 to "
            f"{longest or 'any number of'} tokens for {model.id}"
        )
    if not 0 < settings.heldout_share < 1:
        raise UserError(
            f"held-out share is {settings.heldout_share}; expected a number over 0 and below 1"
        )
    if settings.special_tokens not in MODES:
        raise UserError(
            f"special tokens is {settings.special_tokens!r}; expected one of {', '.join(MODES)}"
        )
    for name in ("batch_windows", "max_rows", "chunk_rows", "shard_rows"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise UserError(f"{name.replace('_', ' ')} is {value}; expected at least 1")


def _check_place(url: str, overwrite: bool) -> None:
    """Refuse, before text and model are read, a place that the writer would refuse after."""
    complete = not overwrite
    try:
        Cache.open(url)
    except UserError:  # missing, unfinished or not a cache: the writer tells these apart
        complete = False
    if complete:
        raise UserError(
            f"{url} is a complete cache; expected a new place, or --overwrite to replace it"
        )
    if "://" in url:
        return
    path = Path(url).absolute()
    parent = next(place for place in (path, *path.parents) if place.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {url}: {parent} is not a directory that can be written to")
