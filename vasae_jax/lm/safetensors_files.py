"""Tensors of a Hugging Face directory: model.safetensors, whole or in shards."""

import json
from pathlib import Path
from typing import Any

# Registers bfloat16 with NumPy, which the safetensors package asks for by name.
import ml_dtypes  # noqa: F401
import numpy as np
import safetensors

from vasae_jax.system.errors import UserError

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PREFIXES = ("", "transformer.", "model.", "gpt_neox.")
_FLOATS = ("F64", "F32", "F16", "BF16")


class SafetensorsFiles:
    """The tensors of a directory; names may have a base model's prefix or not."""

    def __init__(self, directory: Path):
        """Open the files and read their headers.

        Raises:
            UserError: none there, a shard of the index is missing, or a file is corrupt.
        """
        self.directory = directory
        self.files = _weight_files(directory)
        self._handles = {path: _open(path) for path in self.files}
        self._places = {
            name: path for path, handle in self._handles.items() for name in list(handle.keys())
        }

    def where(self, name: str) -> str:
        """The file of tensor ``name``, or the directory where it is in none."""
        full = self._full_name(name)
        return str(self.directory if full is None else self._places[full])

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of tensor ``name``, None if there is no such tensor."""
        full = self._full_name(name)
        if full is None:
            return None
        return tuple(self._handles[self._places[full]].get_slice(full).get_shape())

    def read(self, name: str) -> np.ndarray:
        """Tensor ``name``, which must exist; raises UserError unless it is floating-point."""
        full = self._full_name(name)
        assert full is not None, name
        path = self._places[full]
        kind = self._handles[path].get_slice(full).get_dtype()
        if kind not in _FLOATS:
            expected = ", ".join(_FLOATS)
            raise UserError(f"{path} holds tensor {full} of type {kind}; expected {expected}")
        tensor: np.ndarray = self._handles[path].get_tensor(full)
        return tensor

    def _full_name(self, name: str) -> str | None:
        return next((p + name for p in PREFIXES if p + name in self._places), None)


def _weight_files(directory: Path) -> tuple[Path, ...]:
    if (directory / WHOLE).is_file():
        return (directory / WHOLE,)
    if not (directory / INDEX).is_file():
        found = sorted(path.name for path in directory.glob("*.bin"))
        has = f"only {found[0]}" if found else "no weights"
        raise UserError(f"{directory} holds {has}; expected {WHOLE} or {INDEX} with its shards")
    return shards_of(directory, INDEX)


def shards_of(directory: Path, name: str) -> tuple[Path, ...]:
    """The shards that the index ``name`` of a directory lists; UserError where one is missing."""
    index = directory / name
    try:
        shards = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is not an index of shards; expected a weight_map") from error
    for shard in shards:
        if not (directory / shard).is_file():
            raise UserError(
                f"{directory} lacks {shard}; expected all {len(shards)} shards of {name}"
            )
    return tuple(directory / shard for shard in shards)


def _open(path: Path) -> Any:
    try:
        return safetensors.safe_open(path, framework="np")
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(
            f"{path} cannot be read as safetensors ({error}); is it complete?"
        ) from error
