"""The plan a cache is made by, and the manifest that completes it."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from vasae_jax.cache.store import array_metadata
from vasae_jax.sites import Site, as_sites, check_supported
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import sha256_bytes
from vasae_jax.utils.read_json import LARGE, parse_json_object
from vasae_jax.utils.typed import check_fields, fits

FORMAT = "vasae-cache"
VERSION = 2
"""Version 1, with ``site`` and ``layers`` for ``sites`` and other names of arrays, is read too."""
MANIFEST = "manifest.json"
JOURNAL = "journal.json"
SPLITS = ("train", "heldout")
COLUMNS = ("tokens", "positions", "docs")
NOT_KNOWN = 2**31 - 1
"""In place of a position that is not known; stored as its complement."""
DTYPES = ("bfloat16", "float32")

EMBEDDING = "vocab/embedding"
UNEMBEDDING = "vocab/unembedding"
FINAL_NORM = "vocab/final_norm.json"
TOKENS = "vocab/tokens.json"
PAIRED = ("embedding", "tokens")
"""Names of the digests of what must be in the same order: embedding rows and token strings."""
ANCHORS = "anchors"
"""Folder for anchors, which are measured from a finished cache: no part of the cache itself."""


def position_in_window(positions: np.ndarray) -> np.ndarray:
    """The position of each row in its window, int32 [rows], of the stored ``positions``.

    A row whose neighbours are not of its window has ``~position``. Where the position is not
    known it is NOT_KNOWN, so that no row is masked for it.
    """
    return np.asarray(np.maximum(positions, ~positions))


def shard_key(key: str, index: int) -> str:
    """The file of shard ``index`` of the array at ``key``."""
    matrix = key in (EMBEDDING, UNEMBEDDING) or "/acts/" in key
    return f"{key}/c/{index}/0" if matrix else f"{key}/c/{index}"


@dataclass(frozen=True)
class ModelInfo:
    """The language model that the rows come from."""

    id: str
    revision: str
    family: str
    source_digest: str


@dataclass(frozen=True)
class TextInfo:
    """The text that the rows come from."""

    source: str
    digest: str
    special_tokens: str = "text"
    """How special tokens that it spells were read: as ``text``, ``parse`` as tokens, or ``split``,
    documents cut there. Empty where nobody knows, as of imported rows."""


@dataclass(frozen=True)
class SplitInfo:
    """How much lies in one split."""

    rows: int
    documents: int


@dataclass(frozen=True)
class ShardInfo:
    """One shard file: the rows it holds and the SHA-256 of its bytes."""

    rows: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class CachePlan:
    """Everything known about a cache before its first row.

    Attributes:
        version: of the format.
        sites: whose rows are stored, ascending; names and numbers are taken as ``as_site`` does.
        d_model: width of a row.
        vocab_size: rows of the embedding, and number of token strings.
        tied: the model's unembedding is its embedding.
        context_length: most tokens in one window, the BOS included.
        bos: a BOS token was put before each window.
        heldout_share: share of the documents that go to the split ``heldout``.
        dtype: how rows are stored, ``bfloat16`` or ``float32``.
        chunk_rows: rows that are compressed, checked and read as one.
        shard_rows: rows in one file, a multiple of ``chunk_rows``.
        computed: how the model was run, in words. Rows computed in another way differ in
            rounding, so an unfinished cache is not continued with them.

    Raises:
        UserError: a value is out of its range.
    """

    version: int = VERSION
    model: ModelInfo
    sites: tuple[Site, ...]
    d_model: int
    vocab_size: int
    tied: bool
    dtype: str = "bfloat16"
    context_length: int
    bos: bool
    text: TextInfo
    heldout_share: float
    chunk_rows: int = 2048
    shard_rows: int = 32768
    computed: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sites", as_sites(self.sites))
        for site in self.sites:
            check_supported(site, "a site of the cache")
        if not self.sites or list(self.sites) != sorted(set(self.sites)):
            names = ", ".join(map(str, self.sites)) or "none"
            raise UserError(f"sites are {names}; expected distinct ascending ones")
        if self.dtype not in DTYPES:
            raise UserError(f"cache dtype is {self.dtype!r}; expected one of {', '.join(DTYPES)}")
        for name in ("d_model", "vocab_size", "context_length", "chunk_rows"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.shard_rows < 1 or self.shard_rows % self.chunk_rows:
            raise UserError(
                f"shard_rows is {self.shard_rows}; expected a multiple of chunk_rows "
                f"({self.chunk_rows})"
            )
        if not 0 <= self.heldout_share < 1:
            raise UserError(f"heldout_share is {self.heldout_share}; expected from 0 to below 1")

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        value: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return value | {"sites": list(map(str, self.sites))}

    def site_key(self, split: str, name: str, site: Site) -> str:
        """The key of a site's ``acts`` or ``norms``: its rows or their lengths."""
        return f"{split}/{name}/" + (f"layer_{site.layer:02d}" if self.version == 1 else str(site))

    def split_arrays(self, split: str, rows: int) -> dict[str, dict[str, Any]]:
        """zarr3 metadata of the arrays of a split of ``rows`` rows, by key."""
        arrays = {f"{split}/{name}": ("int32", 0) for name in COLUMNS}
        for site in self.sites:
            arrays[self.site_key(split, "norms", site)] = ("float32", 0)
            arrays[self.site_key(split, "acts", site)] = (self.dtype, self.d_model)
        return {
            key: array_metadata(dtype, rows, width, self.chunk_rows, self.shard_rows)
            for key, (dtype, width) in arrays.items()
        }

    def vocab_metadata(self) -> dict[str, Any]:
        """zarr3 metadata of each of the vocabulary's arrays."""
        shape = self.vocab_size, self.d_model
        return array_metadata("float32", *shape, self.chunk_rows, self.shard_rows)

    def vocab_arrays(self) -> tuple[str, ...]:
        """The keys of the float32 [vocab_size, d_model] arrays."""
        return (EMBEDDING,) if self.tied else (EMBEDDING, UNEMBEDDING)


@dataclass(frozen=True, kw_only=True)
class Manifest(CachePlan):
    """The manifest of a finished cache: its plan, and what was stored.

    Attributes:
        splits: rows and documents by split.
        digests: SHA-256 of the vocabulary's content: ``embedding``, ``unembedding`` (only
            if untied), ``final_norm``, ``tokens``.
        shards: the shard files of each array, in order.
        created_by: program and version.
    """

    splits: Mapping[str, SplitInfo]
    digests: Mapping[str, str]
    shards: Mapping[str, tuple[ShardInfo, ...]] = field(repr=False)
    created_by: str

    @property
    def vocabulary_digest(self) -> str:
        """SHA-256 of the embedding rows together with their token strings, in order."""
        return sha256_bytes(json.dumps([self.digests.get(name) for name in PAIRED]).encode())

    def to_bytes(self) -> bytes:
        """The content of ``manifest.json``."""
        value = {"format": FORMAT, "complete": True} | super().to_json()
        value["checksum"] = checksum(value)
        return encode(value)

    @classmethod
    def from_json(cls, value: dict[str, Any], url: str) -> Self:
        """The manifest that :meth:`to_bytes` wrote.

        Raises:
            UserError: it is not complete, of a newer version, or lacks a key.
        """
        check_version(value, url)
        if value.get("complete") is not True:
            raise UserError(f"{url} is an unfinished cache; expected a complete one")
        try:
            manifest = cls(
                **_plan_fields(value),
                splits={name: SplitInfo(**value["splits"][name]) for name in SPLITS},
                digests=dict(value["digests"]),
                shards=shards_from_json(value["shards"]),
                created_by=value["created_by"],
            )
            check_fields(manifest, "it")
            if any(min(split.rows, split.documents) < 0 for split in manifest.splits.values()):
                raise ValueError("a split of less than no rows or documents")
            return manifest
        except UserError as error:
            raise UserError(f"{url}/{MANIFEST}: {error}") from error
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(
                f"{url}/{MANIFEST} cannot be understood ({type(error).__name__}: {error}); "
                f"expected the keys of {FORMAT} version {VERSION}"
            ) from error


def encode(value: Any, indent: int | None = 1) -> bytes:
    """JSON as it is stored, in ASCII and without NaN."""
    return (json.dumps(value, indent=indent, allow_nan=False) + "\n").encode()


def decode(data: bytes, name: str) -> dict[str, Any]:
    """The JSON object in ``data``; raises UserError naming the file for anything else.

    Token strings may have half a surrogate pair.
    """
    if len(data) > LARGE:
        raise UserError(f"{name} has {len(data):,} bytes; expected {LARGE:,} at most")
    return parse_json_object(data, name, "a JSON object", half_pairs=True)


def checksum(value: Mapping[str, Any]) -> str:
    """SHA-256 over a manifest's keys and values other than ``checksum``."""
    rest = {key: item for key, item in value.items() if key != "checksum"}
    return sha256_bytes(json.dumps(rest, sort_keys=True).encode())


def check_version(value: Mapping[str, Any], url: str) -> None:
    """Raise UserError unless ``value`` is the head of a cache that this program can read."""
    if value.get("format") != FORMAT:
        raise UserError(
            f"{url} says its format is {value.get('format')!r}; expected an activation cache "
            f"({FORMAT!r})"
        )
    if value.get("version") not in (1, VERSION):
        raise UserError(
            f"{url} is a cache of version {value.get('version')}; expected version 1 or {VERSION} "
            "(a newer vasae-jax may read it)"
        )


def shards_from_json(value: Mapping[str, Any]) -> dict[str, tuple[ShardInfo, ...]]:
    """Shard lists by array, as a manifest or journal holds them.

    Raises:
        TypeError, AttributeError, ValueError: something else is there.
    """
    shards = {key: tuple(ShardInfo(**shard) for shard in listed) for key, listed in value.items()}
    if not fits(shards, Mapping[str, tuple[ShardInfo, ...]]):
        raise ValueError("a shard without a number of rows and a digest")
    if any(shard.rows < 0 for listed in shards.values() for shard in listed):
        raise ValueError("a shard of less than no rows")
    return shards


def plan_from_json(value: Mapping[str, Any]) -> CachePlan:
    """The plan that :meth:`CachePlan.to_json` gave.

    Raises:
        UserError, KeyError, TypeError, AttributeError, ValueError: something else is there.
    """
    plan = CachePlan(**_plan_fields(value))
    check_fields(plan, "the plan")
    return plan


def _plan_fields(value: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of CachePlan in the JSON of a plan or manifest of either version."""
    names = {item.name for item in dataclasses.fields(CachePlan)} - {"sites"}
    sites = value.get("sites", [])
    if value["version"] == 1:
        sites = [Site(layer, value["site"]) for layer in value["layers"]]
    return {name: value[name] for name in names} | {
        "model": ModelInfo(**value["model"]),
        "text": TextInfo(**value["text"]),
        "sites": as_sites(sites),
    }
