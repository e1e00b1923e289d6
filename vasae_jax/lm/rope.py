"""Rotary position embedding (Su et al. 2021) in the half-split layout of Hugging Face."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vasae_jax.utils.errors import UserError


def inverse_frequencies(
    head_dim: int, theta: float, scaling: Mapping[str, Any], where: str
) -> tuple[float, ...]:
    """Angle per position of each of the head_dim / 2 pairs (radians), float32.

    Args:
        head_dim: size of a head.
        theta: base of the geometric sequence.
        scaling: Hugging Face's ``rope_scaling`` or ``rope_parameters``; its ``rope_type``
            (older: ``type``) is default, linear, or llama3.
        where: the file that is named in an error.

    Raises:
        UserError: another kind of scaling, or a missing or unusable setting of this one.
    """
    base = np.float32(theta) ** (np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim))
    frequencies = np.float32(1.0) / base
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "linear":
        frequencies = frequencies / np.float32(_setting(scaling, "factor", where))
    elif kind == "llama3":
        frequencies = _llama3(frequencies, scaling, where)
    elif kind not in ("default", None):
        raise UserError(
            f"{where} asks for rotary scaling of type {kind!r}; expected default, linear or llama3"
        )
    return tuple(float(value) for value in frequencies)


def rotations(frequencies: tuple[float, ...], positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of each position's angles, float32 [S, T, 1, n] each, of int32 [S, T]."""
    each = jnp.asarray(frequencies, jnp.float32)[None, None, :]
    angles = positions.astype(jnp.float32)[:, :, None] * each
    return jnp.cos(angles)[:, :, None, :], jnp.sin(angles)[:, :, None, :]


def rotate(x: jax.Array, cosine: jax.Array, sine: jax.Array) -> jax.Array:
    """Turn pair (i, i + n) of each head of ``x`` [S, T, heads, head_dim], for n angles.

    What is left of a head beyond its first 2 n numbers stays as it is.
    """
    turned = cosine.shape[-1]
    first, second, rest = jnp.split(x, (turned, 2 * turned), axis=-1)
    return jnp.concatenate(
        [first * cosine - second * sine, second * cosine + first * sine, rest], axis=-1
    )


def _llama3(frequencies: np.ndarray, scaling: Mapping[str, Any], where: str) -> np.ndarray:
    """Llama 3.1: long waves are slowed by ``factor``, short ones kept, a ramp between."""
    factor = _setting(scaling, "factor", where)
    low = _setting(scaling, "low_freq_factor", where)
    high = _setting(scaling, "high_freq_factor", where)
    length = _setting(scaling, "original_max_position_embeddings", where)
    if high <= low:
        raise UserError(
            f"{where} has rotary high_freq_factor {high} and low_freq_factor {low}; "
            "expected the first to be larger"
        )
    turns = length * frequencies.astype(np.float64) / (2 * math.pi)
    keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (frequencies * ((1 - keep) / factor + keep)).astype(np.float32)


def _setting(scaling: Mapping[str, Any], key: str, where: str) -> float:
    value = scaling.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise UserError(
            f"{where} has rotary scaling with {key} {value!r}; expected a number above 0"
        )
    return float(value)
