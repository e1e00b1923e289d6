"""From a file's tensors to the arrays of a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import jax
import ml_dtypes
import numpy as np

from vasae_jax.lm.pieces import Piece
from vasae_jax.lm.rules import Placement
from vasae_jax.lm.spec import Slot, Spec, block_slots, model_slots
from vasae_jax.system.errors import UserError

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


class Tensors(Protocol):
    """Named tensors in one or more files."""

    files: tuple[Path, ...]

    def where(self, name: str) -> str:
        """The file that holds, or should hold, tensor ``name``."""
        ...

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Row-major shape of a tensor, None if there is no such tensor."""
        ...

    def read(self, name: str) -> np.ndarray:
        """The tensor in a floating-point dtype; raises UserError if it cannot be read."""
        ...


@dataclass(frozen=True)
class Checkpoint:
    """A model in files: its description, its tensors, and how the two correspond."""

    spec: Spec
    tensors: Tensors
    pieces: Mapping[str, Piece]

    def check(self) -> None:
        """Raise UserError, naming tensor and file, if a tensor is missing or misshapen."""
        for key, slot in model_slots(self.spec).items():
            self._check(key, slot, None)
        for key, slot in block_slots(self.spec).items():
            for layer in range(self.spec.n_layers):
                self._check(key, slot, layer)

    def read(self, key: str, layer: int | None = None) -> np.ndarray:
        """Parameter ``key`` (of block ``layer``) as a plain [out, in] matrix or vector."""
        piece = self.pieces[key]
        heads = self.spec.n_heads if key.startswith("query") else self.spec.n_kv_heads
        return piece.extract(self.tensors.read(piece.name.format(layer=layer)), heads)

    def _check(self, key: str, slot: Slot, layer: int | None) -> None:
        piece = self.pieces[key]
        name = piece.name.format(layer=layer)
        found, expected = self.tensors.shape(name), piece.file_shape(slot.stored_shape)
        where = self.tensors.where(name)
        if found is None:
            raise UserError(f"{where} holds no tensor {name}; expected one of shape {expected}")
        if found != expected:
            raise UserError(f"{where} holds tensor {name} of shape {found}; expected {expected}")


def load_model(checkpoint: Checkpoint, dtype: str, placement: Placement) -> dict[str, jax.Array]:
    """The parameters outside the blocks, on the devices."""
    arrays = {}
    for key, slot in model_slots(checkpoint.spec).items():
        # A copy: the device may share host memory, which must not be a mapped file.
        host = np.array(checkpoint.read(key), dtype=_dtype(slot, dtype), order="C")
        arrays[key] = placement.put(host.reshape(slot.shape), slot.axes)
    return arrays


def load_blocks(checkpoint: Checkpoint, dtype: str, placement: Placement) -> dict[str, jax.Array]:
    """The parameters of all blocks, stacked on a leading layer axis, on the devices.

    One parameter of all layers at a time is held in host memory.
    """
    arrays = {}
    for key, slot in block_slots(checkpoint.spec).items():
        n_layers = checkpoint.spec.n_layers
        stack = np.empty((n_layers, *slot.shape), _dtype(slot, dtype))
        for layer in range(n_layers):
            stack[layer] = checkpoint.read(key, layer).reshape(slot.shape)
        arrays[key] = placement.put(stack, ("layers", *slot.axes))
    if checkpoint.spec.local_layers:  # no weights, but a layer's own like them
        arrays["local"] = placement.put(np.array(checkpoint.spec.local_layers), ("layers",))
    return arrays


def _dtype(slot: Slot, dtype: str) -> np.dtype:
    """Vectors (norms, biases) are few and stay float32."""
    found: np.dtype = DTYPES[dtype if slot.inputs else "float32"]
    return found
