"""An SAE, a name for each feature and what these are worth, put together."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from vasae_jax.cache.vocab import Vocab
from vasae_jax.evaluation.names.evidence import Evidence
from vasae_jax.named.dictionary import Dictionary as Dictionary
from vasae_jax.naming.layer import LayerNames
from vasae_jax.naming.nearest import Names
from vasae_jax.sae import Params
from vasae_jax.system.errors import UserError


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
        params: W_enc [d_sae, d_in] (feature-major, as in the trainer), b_enc, W_dec, b_dec; and
            threshold [d_sae], where there is one.
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
        threshold=arrays.get("threshold", np.zeros_like(arrays["b_enc"])),
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
