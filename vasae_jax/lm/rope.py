"""Rotary position embedding (Su et al. 2021) in the half-split layout of Hugging Face."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vasae_jax.utils.errors import UserError


def inverse_frequencies(
    rotary_dim: int, theta: float, scaling: Mapping[str, Any], where: str
) -> tuple[float, ...]:
    """Angle per position of each of the rotary_dim / 2 pairs (radians), float32.

    Args:
        rotary_dim: how many dimensions of a head are rotated.
        theta: base of the geometric sequence.
        scaling: Hugging Face's ``rope_scaling`` or ``rope_parameters``; its ``rope_type``
            (older: ``type``) is default, linear, or llama3.
        where: the file to name in an error.

    Raises:
        UserError: another kind of scaling, or a missing or unusable setting.
    """
    steps = np.arange(0, rotary_dim, 2, dtype=np.float32) / np.float32(rotary_dim)
    frequencies = np.float32(1.0) / np.float32(theta) ** steps
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "linear":
        frequencies = frequencies / np.float32(_setting(scaling, "factor", where))
    elif kind == "llama3":
        frequencies = _llama3(frequencies, scaling, where)
    elif kind not in ("default", None):
        raise UserError(
            f"{where} has rotary scaling of type {kind!r}; expected default, linear or llama3"
        )
    return tuple(frequencies.tolist())


def rotary_cos_sin(
    frequencies: tuple[float, ...], positions: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of the angles at int32 [S, T] ``positions``, float32 [S, T, 1, n] each."""
    per_position = jnp.asarray(frequencies, jnp.float32)[None, None, :]
    angles = positions.astype(jnp.float32)[:, :, None] * per_position
    return jnp.cos(angles)[:, :, None, :], jnp.sin(angles)[:, :, None, :]


def rotate(x: jax.Array, cosine: jax.Array, sine: jax.Array) -> jax.Array:
    """Rotate pair (i, i + n) of each head of ``x`` [S, T, heads, head_dim], for n angles.

    Dimensions from 2 n on stay as they are.
    """
    n = cosine.shape[-1]
    first, second, rest = jnp.split(x, (n, 2 * n), axis=-1)
    return jnp.concatenate(
        [first * cosine - second * sine, second * cosine + first * sine, rest], axis=-1
    )


def _llama3(frequencies: np.ndarray, scaling: Mapping[str, Any], where: str) -> np.ndarray:
    """Llama 3.1: low frequencies are divided by ``factor``, high ones kept, a ramp between."""
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    factor, low, high, length = (_setting(scaling, name, where) for name in names)
    if high <= low:
        raise UserError(
            f"{where} has rotary high_freq_factor {high} and low_freq_factor {low}; "
            "expected the first to be larger"
        )
    rotations = length * frequencies.astype(np.float64) / (2 * math.pi)
    keep = np.clip((rotations - low) / (high - low), 0.0, 1.0)
    return (frequencies * ((1 - keep) / factor + keep)).astype(np.float32)


def _setting(scaling: Mapping[str, Any], key: str, where: str) -> float:
    value = scaling.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise UserError(
            f"{where} has rotary scaling with {key} {value!r}; expected a number above 0"
        )
    return float(value)
