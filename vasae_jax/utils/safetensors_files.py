"""Tensors of safetensors files as NumPy arrays, of the types that NumPy can compute with.

The format has more types (of 4 to 8 bits, complex): those are refused by name, since a number in
them means something only together with a scale, or would lose a part.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

# Registers bfloat16 with NumPy, which the safetensors package asks for by name.
import ml_dtypes  # noqa: F401
import numpy as np
import safetensors

from vasae_jax.utils.errors import UserError, first_line

FLOATS = ("F64", "F32", "F16", "BF16")
"""Types of weights."""
NUMBERS = (*FLOATS, "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")
"""Types of which every number is what it says."""


class SafetensorsFile:
    """An open safetensors file; tensors are read when they are asked for.

    Raises:
        UserError: it cannot be read, or is no such file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            file: Any = safetensors.safe_open(path, framework="np")
            slices = {name: file.get_slice(name) for name in [*file.keys()]}
            self.types: Mapping[str, str] = {n: each.get_dtype() for n, each in slices.items()}
            self.shapes = {name: tuple(each.get_shape()) for name, each in slices.items()}
            self._file = file
        except (safetensors.SafetensorError, OSError, ValueError) as error:
            raise UserError(
                f"{path} cannot be read as safetensors ({first_line(error)}); is it complete?"
            ) from error

    def read(self, name: str, allowed: Collection[str] = NUMBERS) -> np.ndarray:
        """Tensor ``name``, which must exist; UserError unless its type is one of ``allowed``."""
        if self.types[name] not in allowed:
            raise UserError(
                f"{self.path} holds tensor {name} of type {self.types[name]}; expected one of "
                f"{', '.join(allowed)}"
            )
        try:
            tensor: np.ndarray = self._file.get_tensor(name)
        except (safetensors.SafetensorError, OSError, ValueError) as error:
            raise UserError(
                f"{self.path} has a tensor {name} that cannot be read ({first_line(error)})"
            ) from error
        return tensor


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a safetensors file by name; raises UserError as :class:`SafetensorsFile`."""
    file = SafetensorsFile(path)
    return {name: file.read(name) for name in file.types}
