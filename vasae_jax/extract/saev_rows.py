"""saev's shards (OSU-NLP-Group), by its protocol: metadata.json, shards.json, acts000000.bin.

A shard is float32 [examples, layers, tokens, width]. The library records images, so that its
shards have no token ids; for a language model's rows they are given beside.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vasae_jax.extract.import_rows import GivenRows, make_rows
from vasae_jax.sites import Site
from vasae_jax.utils.errors import UserError

META, SHARDS = "metadata.json", "shards.json"
_OLDER = {
    "content_tokens_per_example": "n_patches_per_img",
    "d_model": "d_vit",
    "n_examples": "n_imgs",
}
"""What protocol 1.0 calls what later ones say."""


@dataclass(frozen=True)
class _Meta:
    """What metadata.json says."""

    layers: tuple[int, ...]
    examples: int
    tokens: int
    """Rows of an example, the [CLS] row included."""
    width: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one example in a file."""
        return len(self.layers), self.tokens, self.width


def is_saev(path: Path) -> bool:
    """Whether the folder ``path`` holds saev's shards."""
    return (path / META).is_file() and (path / SHARDS).is_file()


def saev_rows(path: Path, layer: int | None, tokens: np.ndarray | None) -> GivenRows:
    """The rows of one layer; an example is a window.

    Args:
        path: the folder of the shards.
        layer: which of the recorded layers; None where there is one alone.
        tokens: int [examples, rows of an example], or laid flat.

    Raises:
        UserError: no token ids, files that do not belong to one another, no such layer.
    """
    meta = _meta(path)
    shape = (meta.examples, meta.tokens, meta.width)
    if tokens is None:
        raise UserError(
            f"{path} holds saev's shards, which have no token ids; expected --tokens FILE.npy "
            f"with whole numbers of shape {shape[:2]}"
        )
    if tokens.size == math.prod(shape[:2]):
        tokens = tokens.reshape(shape[:2])
    place = _place(path, meta, layer)
    parts = [part[:, place] for part in _shards(path, meta)]
    starts = np.cumsum([0, *map(len, parts)])

    def read(first: int, last: int) -> np.ndarray:
        found = [
            part[max(first - start, 0) : max(last - start, 0)]
            for part, start in zip(parts, starts, strict=False)
        ]
        return np.concatenate(found)

    layer = meta.layers[place]
    site = Site(layer) if layer >= 0 else None
    return make_rows(str(path), shape, read, tokens, site=site)


def _place(path: Path, meta: _Meta, layer: int | None) -> int:
    """Where along the axis of layers the wanted one is."""
    if layer in meta.layers:
        return meta.layers.index(layer)
    if len(meta.layers) == 1 and (layer is None or meta.layers[0] < 0):
        return 0  # counted from the end, it does not say which; --layer does
    found = ", ".join(map(str, meta.layers))
    asked = "none was asked for" if layer is None else f"{layer} was asked for"
    raise UserError(f"{path} has layers {found} and {asked}; expected --layer to be one of them")


def _meta(path: Path) -> _Meta:
    said = _json(path / META)
    if not isinstance(said, dict) or said.get("dtype", "float32") != "float32":
        raise UserError(f"{path / META} is not of float32 rows; expected what saev writes")
    layers = said.get("layers")
    if not isinstance(layers, list) or not layers or not all(type(one) is int for one in layers):
        raise UserError(f"{path / META} has layers {layers!r}; expected a list of whole numbers")
    tokens, width, examples = (_count(path / META, said, key) for key in _OLDER)
    return _Meta(tuple(layers), examples, tokens + bool(said.get("cls_token")), width)


def _count(where: Path, said: dict[str, Any], key: str) -> int:
    value = said.get(key, said.get(_OLDER[key]))
    if type(value) is not int or value < 1:
        raise UserError(f"{where} has {key} {value!r}; expected a whole number above 0")
    return value


def _shards(path: Path, meta: _Meta) -> list[np.ndarray]:
    """The filled part of every file, float32 [examples, layers, tokens, width], memory-mapped."""
    entries = _json(path / SHARDS)
    if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
        raise UserError(f"{path / SHARDS} is no list of shards; expected what saev writes")
    parts = [_shard(path, meta, entry) for entry in entries]
    found = sum(map(len, parts))
    if found != meta.examples:
        raise UserError(
            f"{path / SHARDS} has {found} examples in all; expected {meta.examples}, as {META} says"
        )
    return parts


def _shard(path: Path, meta: _Meta, entry: dict[str, Any]) -> np.ndarray:
    """One file. It may have room for more examples than were written."""
    name, count = entry.get("name"), entry.get("n_examples", entry.get("n_imgs"))
    if not isinstance(name, str) or Path(name).name != name or type(count) is not int or count < 0:
        raise UserError(
            f"{path / SHARDS} has an entry {entry!r:.80}; expected a file's name and a count"
        )
    if not count:  # a file that was opened and not filled
        return np.zeros((0, *meta.shape), np.float32)
    need = 4 * count * math.prod(meta.shape)
    size = (path / name).stat().st_size if (path / name).is_file() else 0
    if size < need:
        raise UserError(f"{path / name} has {size:,} bytes; expected {need:,} for {count} examples")
    return np.memmap(path / name, np.float32, mode="r", shape=(count, *meta.shape))


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); expected what saev writes") from error
