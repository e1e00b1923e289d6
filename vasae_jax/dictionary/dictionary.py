"""The named dictionary: an SAE, a name for each feature, and where both come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vasae_jax.activations import Activation, JumpReLU, TopK, from_json
from vasae_jax.dictionary import lookup
from vasae_jax.dictionary.claims import UNTESTED
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.public import public_meta

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
    "layer_text_rows": ("int32", "sn"),
    "layer_verdict": ("int8", "sn"),
    "hold": ("float32", "s"),
    "fired_rows": ("int32", "s"),
    "verdict": ("int8", "s"),
    "verdict_together": ("int8", "s"),
}
"""Arrays of the ``.npz``: dtype, and axes by letter (i: d_in, s: d_sae, m: names a feature by
embeddings, n: by the layer)."""
UNKNOWN = -1
"""Rows that a dictionary before version 5 does not state."""
TESTED_EACH = 5
"""The version from which each name is tested by itself."""


def fill_old(arrays: dict[str, np.ndarray]) -> None:
    """Add the arrays that a dictionary of an older version lacks.

    Version 2 has no thresholds; before version 5 names were tested together alone.
    """
    arrays.setdefault("threshold", np.zeros_like(arrays["b_enc"]))
    arrays.setdefault("layer_text_rows", np.full_like(arrays["layer_rows"], UNKNOWN))
    arrays.setdefault("layer_verdict", np.zeros(arrays["layer_rows"].shape, np.int8))
    arrays.setdefault("fired_rows", np.full(arrays["verdict"].shape, UNKNOWN, np.int32))
    arrays.setdefault("verdict_together", arrays["verdict"])


def read_activation(
    record: Mapping[str, Any] | None, arrays: Mapping[str, np.ndarray]
) -> Activation:
    """The activation that meta.json names.

    Dictionaries of versions 2 and 3 name none: TopK has no thresholds and a k below d_sae.

    Raises:
        UserError: it is not known here. KeyError, TypeError: the record is not one.
    """
    if record is not None:
        return from_json(record)
    k, d_sae = int(arrays["k"]), len(arrays["b_enc"])
    return TopK(k) if k < d_sae and not arrays["threshold"].any() else JumpReLU()


def check_arrays(
    arrays: Mapping[str, np.ndarray], where: str, extra_params: Sequence[str] = ()
) -> None:
    """Raise UserError unless ``where`` has the arrays in ARRAYS and ``extra_params``, as stated."""
    sizes: dict[str, int] = {}
    for name, (dtype, axes) in {**ARRAYS, **dict.fromkeys(extra_params, ("float32", "s"))}.items():
        if name not in arrays:
            raise UserError(f"{where} has no array {name}; expected those of a dictionary")
        array = arrays[name]
        fits = array.dtype == dtype and array.ndim == len(axes)
        if not fits or any(
            sizes.setdefault(axis, n) != n for axis, n in zip(axes, array.shape, strict=True)
        ):
            raise UserError(
                f"array {name} of {where} is {array.dtype} {array.shape}; expected {dtype} with "
                f"axes ({', '.join(axes)}) of a dictionary with sizes {sizes}"
            )
        if not np.isfinite(array).all():
            raise UserError(f"array {name} of {where} is not finite; expected finite numbers")


def _float32(x: np.ndarray, width: int, what: str) -> np.ndarray:
    """``x`` as float32; UserError unless its last axis is ``width`` long."""
    array = np.asarray(x, np.float32)
    if array.ndim == 0 or array.shape[-1] != width:
        raise UserError(f"{what} have shape {array.shape}; expected [..., {width}]")
    return array


@dataclass(frozen=True, repr=False)
class Dictionary:
    """An SAE with named features; arrays are as in the ``.npz`` file.

    x_hat = z W_dec + b_dec, where z is the activation of (x - pre_bias * b_dec) W_enc + b_enc.

    >>> sae = vj.load(folder)
    >>> z = sae.encode(rows)
    >>> z.shape == (len(rows), sae.d_sae)
    True
    >>> sae.decode(z).shape == rows.shape
    True
    """

    W_enc: np.ndarray
    """float32 [d_in, d_sae]"""
    b_enc: np.ndarray
    """float32 [d_sae]"""
    W_dec: np.ndarray
    """float32 [d_sae, d_in]"""
    b_dec: np.ndarray
    """float32 [d_in]"""
    activation: Activation
    """Which features fire."""
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
    """int32 [d_sae, n], layer names: tokens at or before which it should fire. Tested ones first,
    each in the order of what they add; NO_NAME after the last."""
    layer_relation: np.ndarray
    """int8 [d_sae], 0 where it should fire at its layer names, 1 where just before them."""
    layer_expected: np.ndarray
    """float32 [d_sae, n], share of its activation there on training rows, or, of names by weights
    alone, expected there."""
    layer_hold: np.ndarray
    """float32 [d_sae, n], share of its activation there on held-out rows."""
    layer_lift: np.ndarray
    """float32 [d_sae, n], that over the share of held-out rows there."""
    layer_rows: np.ndarray
    """int32 [d_sae, n], held-out rows there on which it fires."""
    layer_text_rows: np.ndarray
    """int32 [d_sae, n], held-out rows there in all; UNKNOWN in old dictionaries."""
    layer_verdict: np.ndarray
    """int8 [d_sae, n], of each layer name: 1 holds, 2 in part, -1 does not hold, 0 untested."""
    hold: np.ndarray
    """float32 [d_sae], share of its activation on held-out rows that its layer names hold."""
    fired_rows: np.ndarray
    """int32 [d_sae], of the rows that names were tested on, those on which it fires; UNKNOWN in
    old dictionaries."""
    verdict: np.ndarray
    """int8 [d_sae], of its first tested layer name; 0 where none is tested."""
    verdict_together: np.ndarray
    """int8 [d_sae], of its layer names tested as if they were one."""
    tokens: Mapping[int, tuple[str, str]]
    """Raw and display string of every token id in token_ids and layer_token_ids."""
    meta: Mapping[str, Any]
    """The content of meta.json: see :func:`vasae_jax.utils.public.public_meta`."""
    extra_params: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Parameters that the activation adds, float32 [d_sae] each, such as JumpReLU's threshold."""

    def __repr__(self) -> str:
        """Sizes and how many features have a name that was tested, in one line."""
        d_in, d_sae = self.W_enc.shape
        tested = int((self.verdict != UNTESTED).sum())
        return (
            f"Dictionary(d_in={d_in}, d_sae={d_sae}, activation={self.activation!r}, "
            f"features with a tested name: {tested})"
        )

    def __post_init__(self) -> None:
        # Whatever is written of a dictionary is for others, also where an older file named places.
        object.__setattr__(self, "meta", public_meta(self.meta))

    @property
    def tested_together(self) -> bool:
        """Whether names were tested only all together, as before version 5."""
        return bool(self.meta["version"] < TESTED_EACH)

    @property
    def shown(self) -> np.ndarray:
        """bool [d_sae], whether the first layer name is tested, so that it may stand for a feature.

        In a dictionary whose names were tested together all first names do.
        """
        if self.tested_together:
            return np.ones(self.d_sae, bool)
        shown: np.ndarray = self.layer_verdict[:, 0] != UNTESTED
        return shown

    @property
    def k(self) -> int:
        """Features that may fire on one row: all of them where the activation has no bound."""
        return self.activation.max_active(self.d_sae) or self.d_sae

    @property
    def threshold(self) -> np.ndarray:
        """float32 [d_sae], what a preactivation must exceed to fire; 0 for TopK, as for ReLU."""
        bar = self.activation.threshold(self.extra_params, self.d_sae)
        return np.zeros(self.d_sae, np.float32) if bar is None else bar

    @property
    def d_in(self) -> int:
        """Width of a row."""
        return int(self.W_dec.shape[1])

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return int(self.W_dec.shape[0])

    def encode(self, x: np.ndarray) -> np.ndarray:
        """Activations z of rows: float32 [..., d_in] to float32 [..., d_sae].

        Of equal preactivations the lower feature wins. Rows are the output of the model's block
        ``meta["provenance"]["layer"]``.

        Raises:
            UserError: rows of another width, or not finite.
        """
        x = _float32(x, self.d_in, "rows")
        if not np.isfinite(x).all():
            raise UserError("a row is not finite; expected finite numbers")
        rows = x.reshape(-1, self.d_in) - np.float32(self.pre_bias) * self.b_dec
        z = self.activation.select_numpy(rows @ self.W_enc + self.b_enc, self.extra_params)
        return z.reshape(*x.shape[:-1], self.d_sae)

    def decode(self, z: np.ndarray) -> np.ndarray:
        """Reconstructed rows float32 [..., d_in] of activations [..., d_sae].

        Raises:
            UserError: activations of another number of features.
        """
        x_hat: np.ndarray = _float32(z, self.d_sae, "activations") @ self.W_dec + self.b_dec
        return x_hat

    def names(self, feature: int) -> lookup.FeatureNames:
        """What a feature is named by, and what its names hold.

        >>> sae = vj.load(folder)
        >>> print(sae.names(15))
        feature 15 fires before ␣w8 13%  <|endoftext|> 7%  ␣w21 4%  ␣w32 4%: 27% held, ␣w8 holds

        Raises:
            UserError: no such feature.
        """
        return lookup.names(self, feature)

    def search(self, text: str, limit: int = 20) -> list[lookup.Match]:
        """Features with a name that is or contains ``text``; case and spaces at its ends are free.

        Names that are the text come first, then layer names before names by embedding, then names
        that hold by their own test, then those that hold more (or are nearer).

        >>> sae = vj.load(folder)
        >>> for match in sae.search("w13", limit=2):
        ...     print(match)
        feature 5: before ␣w13 4% (holds)
        feature 18: at ␣w13 2% (does not hold)

        Raises:
            UserError: an empty text.
        """
        return lookup.search(self, text, limit)

    def explain(self, row: np.ndarray, top: int = 5) -> list[lookup.ActiveFeature]:
        """The ``top`` features that contribute most to one row float32 [d_in], largest first.

        A feature's contribution is the length of what it adds to x_hat, z_i |W_dec[i]|. Names say
        when features fire: this does not say why the model put the row where it is.

        >>> sae = vj.load(folder)
        >>> for active in sae.explain(rows[0], top=2):
        ...     print(active)
        18.77  feature 11 has no tested name
        11.76  feature 13 fires before ␣w25 15%  ␣w17 10%  ␣w3 7%  ␣w14 3%: 35% held, ␣w25 holds

        Raises:
            UserError: not one row of the dictionary's width, or not finite.
        """
        return lookup.explain(self, row, top)
