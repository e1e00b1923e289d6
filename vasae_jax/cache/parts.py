"""A cache written in parts by many jobs at once, which ``finish`` joins.

Job i of n writes an equal share of the shards of each split. Its journal is ``parts/i-of-n.json``;
job 0 writes the vocabulary as well. On a file system a job locks its part, so that no two write
the same shards; a bucket has no such lock.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vasae_jax.cache.journal import (
    PARTS,
    WRITTEN,
    Shards,
    finalize,
    full_shards,
    journal_bytes,
)
from vasae_jax.cache.manifest import (
    FORMAT,
    JOURNAL,
    MANIFEST,
    SPLITS,
    VERSION,
    CachePlan,
    Manifest,
    decode,
    plan_from_json,
    shards_from_json,
)
from vasae_jax.cache.store import Store
from vasae_jax.cache.vocab import Vocabulary
from vasae_jax.cache.writer import CacheWriter
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.replace import refuse_links
from vasae_jax.utils.typed import fits


@dataclass(frozen=True)
class Part:
    """Part ``index``, from 0, of a cache written in ``count`` parts."""

    index: int
    count: int


class PartWriter(CacheWriter):
    """Writes part of a cache, and resumes it as CacheWriter does.

    Of the rows appended, those outside the part are skipped.

    Args:
        url: as for :class:`CacheWriter`.
        plan: what the cache will be.
        vocabulary: the model's.
        rows: rows of each split of the cache, all parts together.
        part: the part to write.

    Raises:
        UserError: another process writes this part, or the place holds a complete cache, one
            that is not written in parts, or parts of another plan or count.
    """

    def __init__(
        self, url: str, plan: CachePlan, vocabulary: Vocabulary, rows: Mapping[str, int], part: Part
    ) -> None:
        self._prepare(url, plan, vocabulary)
        self._rows, self._key, self._done = dict(rows), _key(part), False
        self._ranges = {split: part_range(rows[split], plan, part) for split in SPLITS}
        _refuse_links(self._store)
        with self._locked(self._key.replace(".json", ".lock")):
            self._shards = self._begin()
            if part.index == 0 and not self._shards:
                self._shards = self._write_vocabulary(vocabulary)
            self._write_journal()
            self._arrays = {
                key: self._store.create_array(key, metadata, shared=True)
                for split in SPLITS
                for key, metadata in plan.split_arrays(split, rows[split]).items()
            }
        self._start()

    def rows_done(self, split: str) -> int:
        """The row of the split after the last durable one of this part."""
        return self._ranges[split][0] + super().rows_done(split)

    def rows_end(self, split: str, total: int) -> int:
        """The row of the split after the last of this part."""
        return self._ranges[split][1]

    def finish_part(self) -> None:
        """Write the rows in memory; the part is complete on return."""
        self._flush()
        self._done = True
        self._write_journal()
        self.close()

    def _begin(self) -> Shards:
        """The durable shards of this part; UserError if the place holds something else."""
        for name, what in ((MANIFEST, "a complete cache"), (JOURNAL, "written as one part")):
            if self._store.read(name) is not None:
                raise UserError(f"{self._store.url} is {what}; expected a new place for its parts")
        expected = {"plan": self.plan.to_json(), "digests": self._digests, "rows": self._rows}
        for key in journals(self._store):
            other = decode(self._store.read(key) or b"{}", self._store.name(key))
            for name, value in expected.items():
                if other.get(name) != value:
                    raise UserError(
                        f"{self._store.name(key)} is of a cache with another {name}; expected "
                        "the same command for every part, except its number"
                    )
            if key.split("-of-")[1] != self._key.split("-of-")[1]:
                raise UserError(
                    f"{self._store.name(key)} is of another number of parts; expected {self._key}"
                )
        data = self._store.read(self._key)
        shards = shards_from_json(decode(data, self._key)["shards"]) if data else {}
        return full_shards(shards, self.plan)

    def _write_journal(self) -> None:
        more = {"complete": self._done, "rows": self._rows}
        self._store.write(self._key, journal_bytes(self.plan, self._digests, self._shards, **more))


def part_range(rows: int, plan: CachePlan, part: Part) -> tuple[int, int]:
    """The first row of a split that ``part`` writes, and the row after its last."""
    shards = -(-rows // plan.shard_rows)
    first, last = (shards * place // part.count for place in (part.index, part.index + 1))
    return first * plan.shard_rows, min(last * plan.shard_rows, rows)


def finish(url: str) -> Manifest:
    """Join the parts of a cache, all of them complete, into a finished one.

    Raises:
        UserError: there are none, one is missing or incomplete, or they do not fit.
    """
    store = Store(url)
    _refuse_links(store)
    keys = journals(store)
    if not keys:
        raise UserError(f"{url} has no parts; expected those of an extraction with --shard i/n")
    named = re.fullmatch(rf"{PARTS}/\d{{5}}-of-(\d{{5}})\.json", keys[0])
    if not named or not int(named[1]):
        raise UserError(f"{store.name(keys[0])} is no journal of a part; expected those alone")
    count = int(named[1])
    parts = [_read_complete(store, index, count) for index in range(count)]
    shards: Shards = {}
    for part in parts:
        for key, more in part.shards.items():
            shards[key] = (*shards.get(key, ()), *more)
    first = parts[0]
    for split in SPLITS:
        stored, rows = sum(shard.rows for shard in shards.get(f"{split}/docs", ())), first.rows
        if stored != rows[split]:
            raise UserError(f"{url} has {stored} rows of {split} in parts; expected {rows[split]}")
    manifest = finalize(store, first.plan, first.digests, shards)
    for key in store.keys(PARTS):
        store.delete(key)
    return manifest


def _refuse_links(store: Store) -> None:
    """Raise UserError if anything that is written of the cache is a link."""
    if store.local:
        refuse_links(Path(store.url), WRITTEN, deep=True)


class _Complete(NamedTuple):
    """What the journal of a complete part says."""

    plan: CachePlan
    rows: dict[str, int]
    digests: dict[str, str]
    shards: Shards


def _read_complete(store: Store, index: int, count: int) -> _Complete:
    """The journal of a part; UserError unless the part is complete, and of this version."""
    key = _key(Part(index, count))
    data = store.read(key)
    value = {} if data is None else decode(data, store.name(key))
    if value.get("format") != FORMAT or value.get("complete") is not True:
        state = "is missing" if data is None else "is unfinished"
        raise UserError(f"{store.url}: part {index}/{count} {state}; expected all {count} parts")
    if value.get("version") != VERSION:
        found = value.get("version")
        raise UserError(f"{store.name(key)} is of version {found}; expected {VERSION}")
    try:
        rows = {split: value["rows"][split] for split in SPLITS}
        digests = dict(value["digests"])
        if not fits(rows, Mapping[str, int]) or not fits(digests, Mapping[str, str]):
            raise ValueError("rows or digests of another type")
        plan, shards = plan_from_json(value["plan"]), shards_from_json(value["shards"])
    except (KeyError, TypeError, AttributeError, ValueError, UserError) as error:
        raise UserError(
            f"{store.name(key)} cannot be understood ({error}); expected the journal of a part"
        ) from error
    return _Complete(plan, rows, digests, shards)


def journals(store: Store) -> list[str]:
    """The journals of the parts that were begun."""
    return [key for key in store.keys(PARTS) if key.endswith(".json")]


def _key(part: Part) -> str:
    return f"{PARTS}/{part.index:05d}-of-{part.count:05d}.json"
