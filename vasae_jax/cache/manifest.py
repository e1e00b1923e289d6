"""What a cache says about itself: the plan it was made by, and the manifest that ends it."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import sha256_bytes

FORMAT = "vasae-cache"
VERSION = 1
MANIFEST = "manifest.json"
JOURNAL = "journal.json"
SPLITS = ("train", "heldout")
COLUMNS = ("tokens", "positions", "docs")
DTYPES = ("bfloat16", "float32")

EMBEDDING = "vocab/embedding"
UNEMBEDDING = "vocab/unembedding"
FINAL_NORM = "vocab/final_norm.json"
TOKENS = "vocab/tokens.json"
PAIRED = ("embedding", "tokens")
"""Names of the digests of what must be in one order: embedding rows and token strings."""
ANCHORS = "anchors"
"""Folder for what is read off a finished cache and kept beside it: no part of the cache."""


def column_key(split: str, name: str) -> str:
    """Where a split's ``tokens``, ``positions`` or ``docs`` lie in the cache."""
    return f"{split}/{name}"


def acts_key(split: str, layer: int) -> str:
    """Where a layer's rows lie in the cache."""
    return f"{split}/acts/layer_{layer:02d}"


def norms_key(split: str, layer: int) -> str:
    """Where the norms of a layer's rows lie in the cache."""
    return f"{split}/norms/layer_{layer:02d}"


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
    """All that is known about a cache before its first row.

    Attributes:
        layers: layers whose rows are stored, ascending (0 is the first block).
        d_model: width of a row.
        vocab_size: rows of the embedding, and number of token strings.
        tied: the model's unembedding is its embedding.
        context_length: most tokens in one window, the BOS included.
        bos: a BOS token was put before each window.
        heldout_share: share of the documents that go to the split ``heldout``.
        dtype: how rows are stored, ``bfloat16`` or ``float32``.
        chunk_rows: rows that are compressed, checked and read as one.
        shard_rows: rows in one file, a multiple of ``chunk_rows``.
        computed: how the model was run, in words; rows run otherwise differ in rounding, so
            an unfinished cache is not continued with them.

    Raises:
        UserError: a value is out of its range.
    """

    model: ModelInfo
    site: str = "resid_post"
    layers: tuple[int, ...]
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
        layers = tuple(int(layer) for layer in self.layers)
        object.__setattr__(self, "layers", layers)
        if not layers or list(layers) != sorted(set(layers)) or layers[0] < 0:
            raise UserError(f"layers are {layers}; expected distinct ascending numbers from 0")
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
        return value

    def split_arrays(self, split: str) -> dict[str, tuple[str, int]]:
        """The arrays of one split: key -> (data type, width, where 0 means one number a row)."""
        arrays = {column_key(split, name): ("int32", 0) for name in COLUMNS}
        for layer in self.layers:
            arrays[norms_key(split, layer)] = ("float32", 0)
            arrays[acts_key(split, layer)] = (self.dtype, self.d_model)
        return arrays

    def vocab_arrays(self) -> tuple[str, ...]:
        """The keys of the float32 [vocab_size, d_model] arrays."""
        return (EMBEDDING,) if self.tied else (EMBEDDING, UNEMBEDDING)


@dataclass(frozen=True, kw_only=True)
class Manifest(CachePlan):
    """A finished cache: its plan, and what was stored.

    Attributes:
        splits: rows and documents by split.
        digests: SHA-256 of the vocabulary's content: ``embedding``, ``unembedding`` (only
            if untied), ``final_norm``, ``tokens``.
        shards: for each array of the cache its shard files, in order.
        created_by: program and version.
    """

    splits: Mapping[str, SplitInfo]
    digests: Mapping[str, str]
    shards: Mapping[str, tuple[ShardInfo, ...]] = field(repr=False)
    created_by: str

    @property
    def plan(self) -> CachePlan:
        """The part that was known before extraction."""
        names = [item.name for item in dataclasses.fields(CachePlan)]
        return CachePlan(**{name: getattr(self, name) for name in names})

    @property
    def vocabulary_digest(self) -> str:
        """Identifies which token string belongs to which embedding row, both in their order."""
        return sha256_bytes(json.dumps([self.digests.get(name) for name in PAIRED]).encode())

    def to_bytes(self) -> bytes:
        """The content of ``manifest.json``."""
        value = {"format": FORMAT, "version": VERSION, "complete": True} | super().to_json()
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
            return cls(**_typed(value))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(
                f"{url}/{MANIFEST} cannot be understood ({type(error).__name__}: {error}); "
                f"expected the keys of {FORMAT} version {VERSION}"
            ) from error


def encode(value: Any, indent: int | None = 1) -> bytes:
    """JSON as it is stored, in ASCII and without NaN."""
    return (json.dumps(value, indent=indent, allow_nan=False) + "\n").encode()


def decode(data: bytes, name: str) -> dict[str, Any]:
    """The JSON object in ``data``; raises UserError naming the file for anything else."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} is not JSON ({error}); expected an object") from error
    if not isinstance(value, dict):
        raise UserError(f"{name} holds a {type(value).__name__}; expected a JSON object")
    return value


def checksum(value: Mapping[str, Any]) -> str:
    """SHA-256 over a manifest's keys and values other than ``checksum``."""
    rest = {key: item for key, item in value.items() if key != "checksum"}
    return sha256_bytes(json.dumps(rest, sort_keys=True).encode())


def check_version(value: Mapping[str, Any], url: str) -> None:
    """Raise UserError unless ``value`` heads a cache that this program can read."""
    if value.get("format") != FORMAT:
        raise UserError(
            f"{url} says its format is {value.get('format')!r}; expected an activation cache "
            f"({FORMAT!r})"
        )
    if value.get("version") != VERSION:
        raise UserError(
            f"{url} is a cache of version {value.get('version')}; expected version {VERSION} "
            "(a newer vasae-jax may read it)"
        )


def shards_from_json(value: Mapping[str, Any]) -> dict[str, tuple[ShardInfo, ...]]:
    """Shard lists by array, as a manifest or journal holds them."""
    return {key: tuple(ShardInfo(**shard) for shard in shards) for key, shards in value.items()}


def plan_from_json(value: Mapping[str, Any]) -> CachePlan:
    """The plan that :meth:`CachePlan.to_json` gave."""
    typed = {"model": ModelInfo(**value["model"]), "text": TextInfo(**value["text"])}
    return CachePlan(**{**value, **typed, "layers": tuple(value["layers"])})


def _typed(value: Mapping[str, Any]) -> dict[str, Any]:
    known = {key: value[key] for key in (item.name for item in dataclasses.fields(Manifest))}
    return known | {
        "model": ModelInfo(**value["model"]),
        "text": TextInfo(**value["text"]),
        "layers": tuple(value["layers"]),
        "digests": dict(value["digests"]),
        "splits": {name: SplitInfo(**value["splits"][name]) for name in SPLITS},
        "shards": shards_from_json(value["shards"]),
    }
