"""The last step of a cache: its manifest, from what was stored."""

from collections.abc import Mapping

import numpy as np

from vasae_jax.cache.manifest import (
    MANIFEST,
    SPLITS,
    CachePlan,
    Manifest,
    ShardInfo,
    SplitInfo,
    column_key,
)
from vasae_jax.cache.store import Store
from vasae_jax.cache.waiting import settled
from vasae_jax.system.errors import UserError
from vasae_jax.system.version import __version__


def seal(
    store: Store,
    plan: CachePlan,
    digests: Mapping[str, str],
    shards: Mapping[str, tuple[ShardInfo, ...]],
) -> Manifest:
    """Write the manifest of a cache whose shards are all there; it is complete then.

    Raises:
        UserError: a document lies in both splits, or something cannot be read or written.
    """
    rows = {split: sum(s.rows for s in shards[column_key(split, "docs")]) for split in SPLITS}
    documents = {split: _documents(store, plan, split, count) for split, count in rows.items()}
    both = np.intersect1d(documents["train"], documents["heldout"])
    if len(both):
        raise UserError(f"document {both[0]} lies in both splits; expected it in one")
    manifest = Manifest(
        **{name: getattr(plan, name) for name in plan.__dataclass_fields__},
        splits={split: SplitInfo(rows[split], len(documents[split])) for split in SPLITS},
        digests=digests,
        shards=shards,
        created_by=f"vasae_jax {__version__}",
    )
    store.write(MANIFEST, manifest.to_bytes())
    return manifest


def _documents(store: Store, plan: CachePlan, split: str, rows: int) -> np.ndarray:
    # Opened afresh, so that it reads files and nothing that lies in memory.
    array = store.open_array(column_key(split, "docs"))
    found = np.empty(0, np.int32)
    with store.errors(f"cannot read {store.url}", "the rows just written"):
        for start in range(0, rows, plan.shard_rows):
            piece = settled(array[start : min(start + plan.shard_rows, rows)].read())
            found = np.union1d(found, piece)
    return found
