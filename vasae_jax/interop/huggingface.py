"""A folder for the Hugging Face hub: a model card, and what SAELens and ``vasae_jax.load`` read.

``sae_weights.safetensors`` and ``cfg.json`` are SAELens' own; ``names.safetensors``,
``names.jsonl`` and ``meta.json`` have the rest of the dictionary.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from safetensors.numpy import save

from vasae_jax.dictionary.card import model_card
from vasae_jax.dictionary.dictionary import ARRAYS, Dictionary
from vasae_jax.dictionary.files import (
    CONFIG,
    META,
    NAME_ARRAYS,
    NAMES,
    WEIGHT_NAMES,
    WEIGHTS,
    names_text,
)
from vasae_jax.interop import sae_lens
from vasae_jax.interop.files import encoder_bias
from vasae_jax.utils.files import sha256_bytes


def files(dictionary: Dictionary) -> dict[str, bytes]:
    """The files' content by name; meta.json, which vouches for the others, is the last."""
    taken = 1.0 if dictionary.pre_bias == 1 else 0.0
    whole = replace(dictionary, b_enc=encoder_bias(dictionary, taken=taken), pre_bias=taken)
    content = dict(sae_lens.files(whole))
    arrays = {
        name: np.array(getattr(whole, name), dtype)
        for name, (dtype, _) in ARRAYS.items()
        if name not in WEIGHT_NAMES
    }
    content[NAME_ARRAYS] = save(arrays)
    content[NAMES] = names_text(whole)
    content["README.md"] = model_card(whole).encode()
    content[META] = _meta(whole.meta, content)
    return content


def _meta(meta: Mapping[str, Any], content: Mapping[str, bytes]) -> bytes:
    digests = {
        "weights": sha256_bytes(content[WEIGHTS]),
        "config": sha256_bytes(content[CONFIG]),
        "name_arrays": sha256_bytes(content[NAME_ARRAYS]),
        "names": sha256_bytes(content[NAMES]),
    }
    text = json.dumps({**meta, "sha256": digests}, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()
