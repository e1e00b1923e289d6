"""The arrays of a dictionary: their names, types and axes, checked."""

from collections.abc import Mapping

import numpy as np

from vasae_jax.system.errors import UserError

ARRAYS: dict[str, tuple[str, str]] = {
    "W_enc": ("float32", "is"),
    "b_enc": ("float32", "s"),
    "W_dec": ("float32", "si"),
    "b_dec": ("float32", "i"),
    "k": ("int32", ""),
    "pre_bias": ("float32", ""),
    "threshold": ("float32", "s"),
    "token_ids": ("int32", "sm"),
    "cosines": ("float32", "sm"),
    "raw_token_ids": ("int32", "sm"),
    "raw_cosines": ("float32", "sm"),
    "fire_rate": ("float32", "s"),
    "layer_token_ids": ("int32", "sn"),
    "layer_relation": ("int8", "s"),
    "layer_expected": ("float32", "sn"),
    "layer_hold": ("float32", "sn"),
    "layer_lift": ("float32", "sn"),
    "layer_rows": ("int32", "sn"),
    "hold": ("float32", "s"),
    "verdict": ("int8", "s"),
}
"""Arrays of the ``.npz``: dtype, and axes by letter (i: d_in, s: d_sae, m: names a feature by
embeddings, n: by the layer)."""


def with_threshold(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``arrays`` with the threshold that version 2 did not write: 0, as every TopK SAE has."""
    return {"threshold": np.zeros_like(arrays["b_enc"]), **arrays}


def check_arrays(arrays: Mapping[str, np.ndarray], where: str) -> None:
    """Raise UserError unless the arrays of ``where`` have the types and shapes in ARRAYS."""
    sizes: dict[str, int] = {}
    for name, (dtype, axes) in ARRAYS.items():
        array = arrays[name]
        shape = array.shape
        fits = array.dtype == dtype and len(shape) == len(axes)
        fits = fits and all(
            sizes.setdefault(axis, n) == n for axis, n in zip(axes, shape, strict=True)
        )
        if not fits:
            raise UserError(
                f"array {name} of {where} is {array.dtype} {shape}; expected {dtype} with axes "
                f"({', '.join(axes)}) of a dictionary with sizes {sizes}"
            )
        if not np.isfinite(array).all():
            raise UserError(f"array {name} of {where} is not finite; expected finite numbers")
