"""A folder for the Hugging Face hub: a model card, and what SAELens and ``vasae_jax.load`` read.

``sae_weights.safetensors`` and ``cfg.json`` are SAELens' own; ``names.safetensors``,
``names.jsonl`` and ``meta.json`` have the rest of the dictionary.
"""

from dataclasses import replace

from safetensors.numpy import save

from vasae_jax.dictionary.card import model_card
from vasae_jax.dictionary.dictionary import Dictionary
from vasae_jax.dictionary.files import (
    HUB_FILES,
    META,
    NAME_ARRAYS,
    NAMES,
    WEIGHT_NAMES,
    arrays_of,
    meta_text,
    names_text,
)
from vasae_jax.interop import common, sae_lens
from vasae_jax.utils.files import sha256_bytes


def files(dictionary: Dictionary) -> dict[str, bytes]:
    """The files' content by name; meta.json, which vouches for the others, is the last."""
    pre_bias = 1.0 if dictionary.pre_bias == 1 else 0.0
    b_enc = common.encoder_bias(dictionary, pre_bias)
    dictionary = replace(dictionary, b_enc=b_enc, pre_bias=pre_bias)
    content = dict(sae_lens.files(dictionary))
    arrays = arrays_of(dictionary)
    content[NAME_ARRAYS] = save({n: a for n, a in arrays.items() if n not in WEIGHT_NAMES})
    content[NAMES] = names_text(dictionary)
    content["README.md"] = model_card(dictionary).encode()
    digests = {key: sha256_bytes(content[name]) for key, name in HUB_FILES.items()}
    content[META] = meta_text(dictionary, digests)
    return content
