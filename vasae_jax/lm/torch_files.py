"""Tensors of a Hugging Face directory in torch's own format: pytorch_model.bin, or shards of it.

Read by torch's loading of weights alone: nothing else that a pickle may hold is run.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from vasae_jax.lm.safetensors_files import PREFIXES, shards_of
from vasae_jax.system.errors import UserError, first_line

WHOLE = "pytorch_model.bin"
INDEX = "pytorch_model.bin.index.json"


def has_torch_files(directory: Path) -> bool:
    """Whether a directory has weights in torch's format and none in safetensors."""
    return any((directory / name).is_file() for name in (WHOLE, INDEX)) and not any(
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
        whole = directory / WHOLE
        self.files = (whole,) if whole.is_file() else shards_of(directory, INDEX)
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
