"""Reading what the libraries write: JSON, safetensors, NumPy archives, torch's own files."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Registers bfloat16 with NumPy, which the safetensors package asks for by name.
import ml_dtypes  # noqa: F401
import numpy as np
import safetensors
from safetensors.numpy import load_file

from vasae_jax.lm.torch_files import torch_tensors
from vasae_jax.system.errors import UserError


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        UserError: the file is not there, or holds something else.
    """
    if not path.is_file():
        raise UserError(f"{path} is not there; expected the settings of an SAE")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); expected the settings of an SAE") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}; expected the settings of an SAE")
    return value


def text(config: Mapping[str, Any], key: str) -> str:
    """A setting that is text; empty where it is something else or not there."""
    value = config.get(key)
    return value if isinstance(value, str) else ""


def table(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A setting that is an object; empty where it is something else or not there."""
    value = config.get(key)
    return value if isinstance(value, dict) else {}


def whole(value: Any) -> int | None:
    """A whole number (5.0 is one), or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        return None
    return int(value)


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """All tensors as float32; UserError where the file is not there or damaged."""
    _there(path)
    try:
        return {name: value.astype(np.float32) for name, value in load_file(path).items()}
    except (safetensors.SafetensorError, ValueError, TypeError, OSError) as error:
        raise UserError(f"{path} cannot be read as safetensors ({error})") from error


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays as float32; UserError where the file is not there or damaged."""
    _there(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name].astype(np.float32) for name in file.files}
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as an .npz file ({error})") from error


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """A state dict as float32; UserError where the file is not there or cannot be read."""
    _there(path)
    return {name: tensor.float().numpy() for name, tensor in torch_tensors(path).items()}


def need(tensors: dict[str, np.ndarray], names: tuple[str, ...], where: Path) -> None:
    """Raise UserError unless ``tensors`` has all ``names``."""
    for name in names:
        if name not in tensors:
            raise UserError(f"{where} has no tensor {name}; found {', '.join(sorted(tensors))}")


def _there(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path} is not there; expected the weights of an SAE")
