"""Tensors of a Hugging Face directory: model.safetensors, whole or in shards."""

import json
import pickle
from pathlib import Path
from typing import Any

# Registers bfloat16 with NumPy, which the safetensors package asks for by name.
import ml_dtypes  # noqa: F401
import numpy as np
import safetensors

from vasae_jax.utils.errors import UserError, first_line

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


# Tensors of a Hugging Face directory in torch's own format: pytorch_model.bin, or shards of it.
#
# Read by torch's loading of weights alone: nothing else that a pickle may hold is run.


TORCH_WHOLE = "pytorch_model.bin"
TORCH_INDEX = "pytorch_model.bin.index.json"


def has_torch_files(directory: Path) -> bool:
    """Whether a directory has weights in torch's format and none in safetensors."""
    return any((directory / name).is_file() for name in (TORCH_WHOLE, TORCH_INDEX)) and not any(
        directory.glob("*.safetensors")
    )


class TorchFiles:
    """The tensors of a directory; names may have a base model's prefix or not."""

    def __init__(self, directory: Path):
        """Open the files, mapped into memory.

        Raises:
            UserError: torch is not installed, a shard of the index is missing, or a file is
                damaged or holds more than weights.
        """
        self.directory = directory
        whole = directory / TORCH_WHOLE
        self.files = (whole,) if whole.is_file() else shards_of(directory, TORCH_INDEX)
        self._places: dict[str, tuple[Path, Any]] = {
            name: (path, tensor)
            for path in self.files
            for name, tensor in torch_tensors(path).items()
        }

    def where(self, name: str) -> str:
        """The file of tensor ``name``, or the directory where it is in none."""
        full = self._full_name(name)
        return str(self.directory if full is None else self._places[full][0])

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of tensor ``name``, None if there is no such tensor."""
        full = self._full_name(name)
        return None if full is None else tuple(self._places[full][1].shape)

    def read(self, name: str) -> np.ndarray:
        """Tensor ``name`` as float32, which must exist; UserError unless it is floating-point."""
        full = self._full_name(name)
        assert full is not None, name
        path, tensor = self._places[full]
        if not tensor.is_floating_point():
            raise UserError(f"{path} holds tensor {full} of type {tensor.dtype}; expected a float")
        array: np.ndarray = tensor.float().numpy()
        return array

    def _full_name(self, name: str) -> str | None:
        return next((p + name for p in PREFIXES if p + name in self._places), None)


def torch_tensors(path: Path) -> dict[str, Any]:
    """The tensors of one file, on the CPU and mapped into memory; what else it holds is left out.

    Raises:
        UserError: torch is not installed, or the file is damaged or holds more than weights.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path} is torch's own file and torch is not installed; expected it from "
            "pip install 'vasae-jax[torch]', or the weights as safetensors"
        ) from error
    try:
        found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return {name: tensor for name, tensor in found.items() if torch.is_tensor(tensor)}
    except (RuntimeError, EOFError, AttributeError, OSError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{path} cannot be read as torch's weights ({first_line(error)})"
        ) from error
