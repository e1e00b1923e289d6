"""Tensors and metadata of a GGUF file, read through the ``gguf`` package."""

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import Keys
from gguf.quants import dequantize

from vasae_jax.lm.gguf_header import check_header
from vasae_jax.utils.errors import UserError


class GgufFile:
    """A GGUF file, memory-mapped; quantised tensors are dequantised when read."""

    def __init__(self, path: Path):
        """Read the metadata and the table of tensors.

        Raises:
            UserError: not a GGUF file, cut short, one that states more than it holds, or one part
                of a split model.
        """
        self.path = path
        self.files: tuple[Path, ...] = (path,)
        try:
            check_header(path)
            self._reader = gguf.GGUFReader(path)
        except (ValueError, KeyError, IndexError, OSError, struct.error) as error:
            raise UserError(f"{path} cannot be read as GGUF ({error}); is it complete?") from error
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        if (self.get(Keys.Split.LLM_KV_SPLIT_COUNT) or 1) > 1:
            raise UserError(f"{path} is one part of a split GGUF; expected a merged file")

    def names(self) -> set[str]:
        """The tensors' names."""
        return set(self._tensors)

    def where(self, name: str) -> str:
        """The file itself, whatever the tensor."""
        return str(self.path)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Row-major shape of tensor ``name`` (GGUF lists the fastest axis first), or None."""
        tensor = self._tensors.get(name)
        return None if tensor is None else tuple(int(size) for size in tensor.shape[::-1])

    def read(self, name: str) -> np.ndarray:
        """Tensor ``name``, which must exist, as float32.

        Raises:
            UserError: a quantisation that the gguf package cannot undo.
        """
        tensor = self._tensors[name]
        try:
            values = dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as error:
            raise UserError(
                f"{self.path} holds tensor {name} quantised as {tensor.tensor_type.name}, which "
                "cannot be dequantised; expected for example F16, Q8_0 or Q4_K"
            ) from error
        return values.astype(np.float32, copy=False)

    def same(self, first: str, second: str) -> bool:
        """Whether two tensors hold the same bytes."""
        a, b = self._tensors[first], self._tensors[second]
        return a.tensor_type == b.tensor_type and np.array_equal(a.data, b.data)

    def metadata_keys(self) -> list[str]:
        """Names of the metadata."""
        return list(self._reader.fields)

    def get(self, key: str) -> Any:
        """Metadata value ``key`` (number, string or list), None if absent.

        Raises:
            UserError: the value is corrupt.
        """
        field = self._reader.get_field(key)
        try:
            return None if field is None else field.contents()
        except (ValueError, IndexError) as error:
            raise UserError(f"{self.path} has corrupt metadata {key} ({error})") from error
