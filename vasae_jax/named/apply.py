"""Rows to activations and back, with NumPy."""

from typing import TYPE_CHECKING

import numpy as np

from vasae_jax.system.errors import UserError

if TYPE_CHECKING:
    from vasae_jax.named.dictionary import Dictionary


def encode(dictionary: "Dictionary", x: np.ndarray) -> np.ndarray:
    """See :meth:`Dictionary.encode`."""
    x = _wide(x, dictionary.d_in, "rows")
    if not np.isfinite(x).all():
        raise UserError("a row is not finite; expected finite numbers")
    rows = x.reshape(-1, dictionary.d_in) - np.float32(dictionary.pre_bias) * dictionary.b_dec
    pre = rows @ dictionary.W_enc + dictionary.b_enc
    z = np.where(pre > np.maximum(dictionary.threshold, 0), pre, np.float32(0))
    return keep_largest(z, dictionary.k).reshape(*x.shape[:-1], dictionary.d_sae)


def decode(dictionary: "Dictionary", z: np.ndarray) -> np.ndarray:
    """See :meth:`Dictionary.decode`."""
    z = _wide(z, dictionary.d_sae, "activations")
    x_hat: np.ndarray = z @ dictionary.W_dec + dictionary.b_dec
    return x_hat


def keep_largest(z: np.ndarray, k: int) -> np.ndarray:
    """``z`` [n, F] >= 0 with all but the k largest of each row 0; equal ones by lowest index."""
    features = z.shape[1]
    if k >= features:
        return z
    cut = np.partition(z, features - k, axis=1)[:, features - k, None]
    above, tied = z > cut, z == cut
    room = k - above.sum(axis=1, keepdims=True)
    kept: np.ndarray = np.where(above | (tied & (np.cumsum(tied, axis=1) <= room)), z, 0)
    return kept.astype(z.dtype)


def _wide(x: np.ndarray, width: int, what: str) -> np.ndarray:
    array = np.asarray(x, np.float32)
    if array.ndim == 0 or array.shape[-1] != width:
        raise UserError(f"{what} have shape {array.shape}; expected [..., {width}]")
    return array
