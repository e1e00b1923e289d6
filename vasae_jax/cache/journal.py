"""The journal of an unfinished cache, and the manifest that takes its place at the end."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vasae_jax import __version__
from vasae_jax.cache.manifest import (
    ANCHORS,
    FORMAT,
    JOURNAL,
    MANIFEST,
    SPLITS,
    VERSION,
    CachePlan,
    Manifest,
    ShardInfo,
    SplitInfo,
    TextInfo,
    check_version,
    decode,
    encode,
    shards_from_json,
)
from vasae_jax.cache.store import Store, wait
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.replace import check_replaceable, refuse_links

PARTS = "parts"
WRITTEN = (MANIFEST, JOURNAL, "vocab", *SPLITS, ANCHORS, PARTS)
"""What is written in a cache's folder."""
Shards = dict[str, tuple[ShardInfo, ...]]
"""The durable shards of each array, in order, by the array's key."""


def begin(store: Store, plan: CachePlan, digests: Mapping[str, str], overwrite: bool) -> Shards:
    """Begin a cache at ``store``, or continue the one that lies there.

    Returns:
        The durable shards by array: empty for a new cache, at least the vocabulary's for
        an unfinished one.

    Raises:
        UserError: the place holds something else, a complete cache, or an unfinished one of
            another plan or vocabulary (the last two unless ``overwrite``).
    """
    manifest, journal = read_state(store)
    if manifest is not None and not overwrite:
        raise UserError(
            f"{store.url} is a complete cache; expected a new place, or --overwrite to replace it"
        )
    if store.local and (manifest or journal):
        refuse_links(Path(store.url), WRITTEN, deep=True)
        if overwrite:
            check_replaceable(Path(store.url), WRITTEN)
    if journal is not None and manifest is None and not overwrite:
        return _resume(store, journal, plan, digests)
    # From here on the place is an unfinished cache, whatever happens next.
    store.write(JOURNAL, journal_bytes(plan, digests, {}))
    if manifest is not None:
        store.delete(MANIFEST)
    return {}


def journal_bytes(
    plan: CachePlan, digests: Mapping[str, str], shards: Shards, **more: Any
) -> bytes:
    """The content of ``journal.json`` or of a part's journal.

    Args:
        plan: of the cache.
        digests: of the vocabulary.
        shards: the durable ones, by array.
        more: other keys, such as ``expected``, the rows that each split will have.
    """
    value = {
        "format": FORMAT,
        "version": VERSION,
        "complete": False,
        "plan": plan.to_json(),
        "digests": dict(digests),
        "shards": {key: [vars(shard) for shard in listed] for key, listed in shards.items()},
    }
    return encode(value | {"expected": {}} | more, indent=None)


def read_state(store: Store) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The manifest and the journal at ``store``; UserError if it holds something else."""
    if store.empty():
        return None, None
    data = {name: store.read(name) for name in (MANIFEST, JOURNAL)}
    values = {k: None if v is None else decode(v, store.name(k)) for k, v in data.items()}
    for name, value in values.items():
        if value is not None and value.get("format") != FORMAT:
            raise UserError(f"{store.name(name)} is not of a cache; expected a new or empty place")
    if not any(values.values()):
        raise UserError(
            f"{store.url} holds files that are not a cache; expected a new or empty place"
        )
    return values[MANIFEST], values[JOURNAL]


def _resume(
    store: Store, journal: dict[str, Any], plan: CachePlan, digests: Mapping[str, str]
) -> Shards:
    """The full shards of the cache that ``journal`` describes; UserError if it is another."""
    check_version(journal, store.url)
    expected = {**plan.to_json(), **digests}
    try:
        text = vars(TextInfo(**journal["plan"]["text"]))  # with what it may not state yet
        stored = {"version": journal["version"], **journal["plan"], "text": text}
        stored |= journal["digests"]
        shards = shards_from_json(journal["shards"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{store.name(JOURNAL)} cannot be understood ({error}); expected what an "
            "interrupted extraction left, or --overwrite to start again"
        ) from error
    for key in [*expected, *stored]:
        if stored.get(key) != expected.get(key):
            raise UserError(
                f"{store.url} is an unfinished cache with {key} {stored.get(key)}; expected "
                f"{expected.get(key)} to resume it, or --overwrite to start again"
            )
    return full_shards(shards, plan)


def full_shards(shards: Shards, plan: CachePlan) -> Shards:
    """``shards`` without partial ones, which are written again: each write begins at a shard."""
    return {
        key: tuple(s for s in listed if s.rows == plan.shard_rows or key.startswith("vocab/"))
        for key, listed in shards.items()
    }


def finalize(store: Store, plan: CachePlan, digests: Mapping[str, str], shards: Shards) -> Manifest:
    """Write the manifest of a cache whose shards are all stored, which completes it.

    Raises:
        UserError: a document lies in both splits, or something cannot be read or written.
    """
    rows = {split: sum(s.rows for s in shards.get(f"{split}/docs", ())) for split in SPLITS}
    documents = {split: _documents(store, plan, split, count) for split, count in rows.items()}
    both = np.intersect1d(documents["train"], documents["heldout"])
    if len(both):
        raise UserError(f"document {both[0]} lies in both splits; expected it in one")
    manifest = Manifest(
        **vars(plan),
        splits={split: SplitInfo(rows[split], len(documents[split])) for split in SPLITS},
        digests=digests,
        shards=shards,
        created_by=f"vasae_jax {__version__}",
    )
    store.write(MANIFEST, manifest.to_bytes())
    return manifest


def _documents(store: Store, plan: CachePlan, split: str, rows: int) -> np.ndarray:
    """The documents of a split, distinct and ascending."""
    # Opened again, so that files are read and not what is still in memory.
    array = store.open_array(f"{split}/docs")
    docs = np.empty(0, np.int32)
    with store.errors(f"cannot read {store.url}", "the rows just written"):
        for start in range(0, rows, plan.shard_rows):
            stop = min(start + plan.shard_rows, rows)
            docs = np.union1d(docs, wait(array[start:stop].read()))
    return docs
