"""Tensors of a Hugging Face directory, in safetensors or in torch's format, whole or in shards."""

import pickle
import re
import reprlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vasae_jax.utils.errors import UserError, first_line
from vasae_jax.utils.files import path_inside
from vasae_jax.utils.read_json import LARGE, read_json_object
from vasae_jax.utils.safetensors_files import FLOATS, SafetensorsFile
from vasae_jax.utils.sizes import check_stored

SAFETENSORS = "model.safetensors"
TORCH = "pytorch_model.bin"
INDEX_SUFFIX = ".index.json"
_TORCH_TYPES = (
    *("float64", "float32", "float16", "bfloat16"),
    *("int64", "int32", "int16", "int8", "uint8", "bool"),
)
PREFIXES = ("", "transformer.", "model.", "gpt_neox.")


class _Entry(NamedTuple):
    """A tensor of an open file."""

    path: Path
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


class DirectoryTensors:
    """The tensors of a directory; names may have a base model's prefix or not."""

    def __init__(self, directory: Path):
        """Open the files, torch's format only if there are no safetensors, and list the tensors.

        Raises:
            UserError: no weights there, a shard of an index is missing, a file is corrupt, or two
                tensors have the same name but for a prefix.
        """
        self.directory = directory
        torch_files = any((directory / name).is_file() for name in (TORCH, TORCH + INDEX_SUFFIX))
        use_torch = torch_files and not any(directory.glob("*.safetensors"))
        self.files = _weight_files(directory, TORCH if use_torch else SAFETENSORS)
        self._entries: dict[str, _Entry] = {}
        for path in self.files:
            self._entries |= _torch_entries(path) if use_torch else _safetensors_entries(path)
        counts = Counter(_without_prefix(name) for name in self._entries)
        double = sorted(name for name, count in counts.items() if count > 1)
        if double:
            raise UserError(
                f"{directory} holds tensor {double[0]} {counts[double[0]]} times, with and without "
                "a prefix; expected it once"
            )

    def where(self, name: str) -> str:
        """The file of tensor ``name``, or the directory where it is in none."""
        entry = self._find(name)
        return str(self.directory if entry is None else entry.path)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of tensor ``name``, None if there is no such tensor."""
        entry = self._find(name)
        return None if entry is None else entry.shape

    def read(self, name: str) -> np.ndarray:
        """Tensor ``name``, which must exist; raises UserError unless it is floating-point."""
        entry = self._find(name)
        assert entry is not None, name
        return entry.read()

    def names(self) -> set[str]:
        """The tensors' names without the prefix of a base model."""
        return {_without_prefix(name) for name in self._entries}

    def same(self, first: str, second: str) -> bool:
        """Whether two tensors, which must exist, are equal."""
        return np.array_equal(self.read(first), self.read(second))

    def _find(self, name: str) -> _Entry | None:
        return next((self._entries[p + name] for p in PREFIXES if p + name in self._entries), None)


def _without_prefix(name: str) -> str:
    prefix = next((prefix for prefix in PREFIXES[1:] if name.startswith(prefix)), "")
    return name.removeprefix(prefix)


def _safetensors_entries(path: Path) -> dict[str, _Entry]:
    file = SafetensorsFile(path)
    return {
        name: _Entry(path, shape, partial(file.read, name, FLOATS))
        for name, shape in file.shapes.items()
    }


def _torch_entries(path: Path) -> dict[str, _Entry]:
    def read(name: str) -> np.ndarray:
        tensor = tensors[name]
        if not tensor.is_floating_point():
            raise UserError(f"{path} holds tensor {name} of type {tensor.dtype}; expected a float")
        array: np.ndarray = tensor.float().numpy()
        return array

    tensors = torch_tensors(path)
    return {
        name: _Entry(path, tuple(tensor.shape), partial(read, name))
        for name, tensor in tensors.items()
    }


def _weight_files(directory: Path, name: str) -> tuple[Path, ...]:
    """The file ``name``, or the shards that its index lists."""
    if (directory / name).is_file():
        return (directory / name,)
    index = directory / (name + INDEX_SUFFIX)
    if not index.is_file():
        others = sorted(path.name for path in directory.glob("*.bin"))
        content = f"only {others[0]}" if others else "no weights"
        raise UserError(
            f"{directory} holds {content}; expected {name} or {index.name} with its shards"
        )
    shards = indexed_files(index)
    for shard in shards:
        if not shard.is_file():
            raise UserError(
                f"{directory} lacks {shard.name}; expected all {len(shards)} shards of {index.name}"
            )
    return shards


def indexed_files(index: Path) -> tuple[Path, ...]:
    """The files that an index of shards lists, all of them to be in its folder.

    Raises:
        UserError: it is no such index, or names a file elsewhere.
    """
    stored = read_json_object(index, "an index of shards", limit=LARGE).get("weight_map")
    if not isinstance(stored, dict) or not all(isinstance(each, str) for each in stored.values()):
        raise UserError(f"{index} is not an index of shards; expected a weight_map of file names")
    return tuple(sorted(path_inside(index.parent, name, index) for name in set(stored.values())))


def _check_bytes(tensors: dict[str, Any], path: Path) -> None:
    """Raise UserError for tensors that repeat what is stored, but for a tied weight, stored once.

    Tensors of strides 0 would be of any size.
    """
    stated = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if stated > 2 * path.stat().st_size:
        raise UserError(
            f"{path} cannot be read as torch's weights: its tensors state {stated:,} bytes in a "
            f"file of {path.stat().st_size:,}"
        )


def torch_tensors(path: Path) -> dict[str, Any]:
    """The tensors of one file in torch's format, on the CPU and mapped into memory.

    Only weights are unpickled: no other object that the file holds is constructed. They are plain
    tensors of _TORCH_TYPES.

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
        check_stored(path)  # torch compresses nothing
        state: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than weights, or is damaged ({_refused(error)}), and none of it "
            "was run; expected the tensors of a state dict alone"
        ) from error
    except Exception as error:  # whatever the unpickler meets in a damaged file
        raise UserError(
            f"{path} cannot be read as torch's weights ({first_line(error)})"
        ) from error
    if not isinstance(state, dict):
        raise UserError(f"{path} holds a {type(state).__name__}; expected a state dict of tensors")
    tensors = {name: _plain(name, tensor, path) for name, tensor in state.items()}
    _check_bytes(tensors, path)
    return tensors


def _refused(error: Exception) -> str:
    """What torch's reader of weights met, without its advice to read the file all the same."""
    match = re.search(r"GLOBAL ([\w.]+)|Unsupported \w+ \w+", str(error))
    return match[1] or match[0] if match else "its pickle is not of tensors"


def _plain(name: Any, tensor: Any, path: Path) -> Any:
    """A tensor of real numbers, each stored by itself, without a gradient.

    A parameter (``torch.nn.Parameter``) is its tensor.

    Raises:
        UserError: something else, such as a sparse, quantised, complex or 8-bit tensor.
    """
    import torch

    what = ""
    if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
        what = f"a {type(tensor).__name__} called {reprlib.repr(name)}"
    elif tensor.is_nested or tensor.layout != torch.strided:
        what = f"tensor {name} of layout {'nested' if tensor.is_nested else tensor.layout}"
    elif tensor.is_meta or str(tensor.dtype).removeprefix("torch.") not in _TORCH_TYPES:
        what = f"tensor {name} of type {tensor.dtype}{' without its numbers' * tensor.is_meta}"
    if what:
        raise UserError(f"{path} holds {what}; expected plain tensors of {', '.join(_TORCH_TYPES)}")
    return tensor.detach().resolve_neg()
