"""The named dictionary: an SAE, a name for each feature, and where both come from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from vasae_jax.cache.vocab import Vocab
from vasae_jax.evaluation.names.evidence import Evidence
from vasae_jax.naming.layer import LayerNames
from vasae_jax.naming.nearest import Names
from vasae_jax.sae import Params
from vasae_jax.system.errors import UserError


@dataclass(frozen=True)
class Dictionary:
    """An SAE with named features; arrays are as in the ``.npz`` file.

    x_hat = z W_dec + b_dec with z the k largest of relu((x - pre_bias * b_dec) W_enc + b_enc).
    """

    W_enc: np.ndarray
    """float32 [d_in, d_sae]"""
    b_enc: np.ndarray
    """float32 [d_sae]"""
    W_dec: np.ndarray
    """float32 [d_sae, d_in]"""
    b_dec: np.ndarray
    """float32 [d_in]"""
    k: int
    """Features that may fire on one row."""
    pre_bias: float
    """Share of b_dec taken from the input before encoding."""
    token_ids: np.ndarray
    """int32 [d_sae, m], tokens nearest to W_dec[i] among the stated anchors, best first."""
    cosines: np.ndarray
    """float32 [d_sae, m]"""
    raw_token_ids: np.ndarray
    """int32 [d_sae, m], tokens nearest among the raw input embeddings."""
    raw_cosines: np.ndarray
    """float32 [d_sae, m]"""
    fire_rate: np.ndarray
    """float32 [d_sae], share of rows on which the feature fires."""
    layer_token_ids: np.ndarray
    """int32 [d_sae, n], layer names: tokens at or before which it should fire, best first."""
    layer_relation: np.ndarray
    """int8 [d_sae], 0 where it should fire at its layer names, 1 where just before them."""
    layer_expected: np.ndarray
    """float32 [d_sae, n], share of its activation expected at each layer name."""
    layer_hold: np.ndarray
    """float32 [d_sae, n], share of its activation there on held-out rows."""
    layer_lift: np.ndarray
    """float32 [d_sae, n], that over the share of held-out rows there."""
    layer_rows: np.ndarray
    """int32 [d_sae, n], held-out rows there on which it fires."""
    hold: np.ndarray
    """float32 [d_sae], share of its activation on held-out rows that its layer names hold."""
    verdict: np.ndarray
    """int8 [d_sae], 1 its layer names hold, 0 no evidence, -1 contradicted."""
    tokens: Mapping[int, tuple[str, str]]
    """Raw and display string of every token id in token_ids and layer_token_ids."""
    meta: Mapping[str, Any]
    """The content of meta.json."""

    @property
    def d_in(self) -> int:
        """Width of a row."""
        width: int = self.W_dec.shape[1]
        return width

    @property
    def d_sae(self) -> int:
        """Number of features."""
        features: int = self.W_dec.shape[0]
        return features


ARRAYS: dict[str, tuple[str, str]] = {
    "W_enc": ("float32", "is"),
    "b_enc": ("float32", "s"),
    "W_dec": ("float32", "si"),
    "b_dec": ("float32", "i"),
    "k": ("int32", ""),
    "pre_bias": ("float32", ""),
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


def make_dictionary(
    params: Params | Mapping[str, np.ndarray | jax.Array],
    *,
    k: int,
    pre_bias: float,
    names: Names,
    raw_names: Names,
    layer_names: LayerNames,
    worth: Evidence,
    vocab: Vocab,
    fire_rate: np.ndarray,
    meta: Mapping[str, Any],
) -> Dictionary:
    """Put an SAE and the names of its features together.

    Args:
        params: W_enc [d_sae, d_in] (feature-major, as in the trainer), b_enc, W_dec, b_dec.
        k: features that may fire on one row.
        pre_bias: share of b_dec taken from the input before encoding.
        names: the nearest of the stated anchors, ids and cosines [d_sae, m].
        raw_names: the nearest of the raw input embeddings, likewise.
        layer_names: by the layer's own anchors.
        worth: what those are worth on held-out rows.
        vocab: the V token strings.
        fire_rate: [d_sae], share of rows on which each feature fires.
        meta: see :func:`make_meta`.

    Raises:
        UserError: a name has no string in the vocabulary.
    """
    given: Mapping[str, Any] = dict(params)
    arrays = {name: np.asarray(value, np.float32) for name, value in given.items()}
    return Dictionary(
        W_enc=np.ascontiguousarray(arrays["W_enc"].T),
        b_enc=arrays["b_enc"],
        W_dec=arrays["W_dec"],
        b_dec=arrays["b_dec"],
        k=k,
        pre_bias=pre_bias,
        token_ids=names.ids,
        cosines=names.cosines,
        raw_token_ids=raw_names.ids,
        raw_cosines=raw_names.cosines,
        fire_rate=np.asarray(fire_rate, np.float32),
        layer_token_ids=layer_names.ids,
        layer_relation=layer_names.relation,
        layer_expected=layer_names.expected,
        layer_hold=worth.name_hold,
        layer_lift=worth.name_lift,
        layer_rows=worth.name_rows,
        hold=worth.hold,
        verdict=worth.verdict,
        tokens=_strings(np.union1d(names.ids, layer_names.ids).tolist(), vocab),
        meta=meta,
    )


def _strings(used: list[int], vocab: Vocab) -> dict[int, tuple[str, str]]:
    """Raw and display string of every token in ``used``, which is in order."""
    if used and used[-1] >= len(vocab):
        raise UserError(
            f"token {used[-1]} is a name and the vocabulary has {len(vocab)} strings; "
            "expected a string for every token"
        )
    return {token: (vocab.raw[token], vocab.display(token)) for token in used}


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
