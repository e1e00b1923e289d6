"""Reader of saev's shards (OSU-NLP-Group): metadata.json, shards.json, acts000000.bin.

A shard is float32 [examples, layers, tokens, width]. saev records images, so its shards have no
token ids; for rows of a language model they come from a separate file.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from vasae_jax.extract.external_rows import ExternalRows
from vasae_jax.sites import Site
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import path_inside
from vasae_jax.utils.read_json import LARGE, read_json

METADATA, SHARDS = "metadata.json", "shards.json"
_OLD_KEYS = {
    "n_examples": "n_imgs",
    "content_tokens_per_example": "n_patches_per_img",
    "d_model": "d_vit",
}
"""Keys of metadata.json, and what protocol 1.0 calls them."""


def saev_rows(path: Path, layer: int | None, tokens: np.ndarray | None) -> ExternalRows:
    """The rows of one layer; each example is a window.

    Args:
        path: the folder of the shards.
        layer: one of the recorded layers; may be None where there is only one.
        tokens: int [examples, rows of an example], or laid flat.

    Raises:
        UserError: no token ids, files that do not belong together, no such layer.
    """
    layers, shape = _read_metadata(path)
    if tokens is None:
        raise UserError(
            f"{path} holds saev's shards, which have no token ids; expected --tokens FILE.npy "
            f"with integers of shape {shape[:2]}"
        )
    if tokens.size == math.prod(shape[:2]):
        tokens = tokens.reshape(shape[:2])
    index = _layer_index(path, layers, layer)
    shards = [shard[:, index] for shard in _open_shards(path, len(layers), shape)]
    starts = np.cumsum([0, *map(len, shards)]).tolist()

    def read(first: int, last: int) -> np.ndarray:
        parts = [
            shard[max(first - start, 0) : max(last - start, 0)]
            for shard, start in zip(shards, starts, strict=False)
        ]
        return np.concatenate(parts)

    # A negative number counts from the last layer, whose number saev does not record.
    site = Site(layers[index]) if layers[index] >= 0 else None
    return ExternalRows(str(path), shape, read, tokens, site=site)


def _read_metadata(path: Path) -> tuple[list[int], tuple[int, int, int]]:
    """The recorded layers, and the shape [examples, tokens, width] of the rows of each."""
    file, metadata = path / METADATA, read_json(path / METADATA, "what saev writes")
    if not isinstance(metadata, dict) or metadata.get("dtype", "float32") != "float32":
        raise UserError(f"{file} is not of float32 rows; expected what saev writes")
    layers = metadata.get("layers")
    if not isinstance(layers, list) or not layers or any(type(each) is not int for each in layers):
        raise UserError(f"{file} has layers {layers!r}; expected a list of integers")
    sizes: dict[str, Any] = {k: metadata.get(k, metadata.get(old)) for k, old in _OLD_KEYS.items()}
    for key, size in sizes.items():
        if type(size) is not int or size < 1:
            raise UserError(f"{file} has {key} {size!r}; expected an integer above 0")
    examples, tokens, width = sizes.values()
    return layers, (examples, tokens + bool(metadata.get("cls_token")), width)


def _layer_index(path: Path, layers: list[int], layer: int | None) -> int:
    """The index of ``layer`` along the shards' axis of layers."""
    if layer in layers:
        return layers.index(layer)
    if len(layers) == 1 and (layer is None or layers[0] < 0):
        return 0
    names = ", ".join(map(str, layers))
    raise UserError(f"--layer is {layer}; expected one of {names}, the layers of {path}")


def _open_shards(path: Path, layers: int, shape: tuple[int, int, int]) -> list[np.ndarray]:
    """The filled part of each file, float32 [examples, layers, tokens, width], memory-mapped."""
    entries = read_json(path / SHARDS, "what saev writes", limit=LARGE)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{path / SHARDS} is no list of shards; expected what saev writes")
    shards = [_open_shard(path, entry, (layers, *shape[1:])) for entry in entries]
    examples = sum(map(len, shards))
    if examples != shape[0]:
        raise UserError(
            f"{path / SHARDS} has {examples} examples in all; expected the {shape[0]} of {METADATA}"
        )
    return shards


def _open_shard(path: Path, entry: dict[str, Any], shape: tuple[int, ...]) -> np.ndarray:
    """The examples of one file, each of ``shape``; the file may be larger than they need."""
    name, count = entry.get("name"), entry.get("n_examples", entry.get("n_imgs"))
    if type(count) is not int or count < 0:
        raise UserError(f"{path / SHARDS} has an entry {entry!r:.80}; expected a count of examples")
    file = path_inside(path, name, path / SHARDS)
    if not count:  # a file that was opened and not filled
        return np.zeros((0, *shape), np.float32)
    expected = 4 * count * math.prod(shape)
    size = file.stat().st_size if file.is_file() else 0
    if size < expected:
        raise UserError(f"{file} has {size:,} bytes; expected {expected:,} for {count} examples")
    return np.memmap(file, np.float32, mode="r", shape=(count, *shape))
