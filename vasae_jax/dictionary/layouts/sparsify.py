"""EleutherAI sparsify (1.x): ``cfg.json`` and ``sae.safetensors``.

It always encodes x - b_dec: pre_bias 1 is written as it is, any other share is folded into
the encoder's bias. There is no room for layer names: its loader prints every key that it does
not know, whole.
"""

import numpy as np
from safetensors.numpy import save

from vasae_jax.dictionary.layouts.files import encoder_bias, json_bytes
from vasae_jax.named.dictionary import Dictionary
from vasae_jax.system.errors import UserError


def files(dictionary: Dictionary) -> dict[str, bytes]:
    """The files' content by name; UserError unless the k largest decide what fires."""
    if dictionary.k == dictionary.d_sae:
        raise UserError(
            "the dictionary's thresholds decide what fires and layout sparsify has only TopK; "
            "expected a TopK SAE, or layout sae_lens, dictionary_learning or gemma_scope"
        )
    config = {
        "activation": "topk",
        "expansion_factor": max(1, dictionary.d_sae // dictionary.d_in),
        "normalize_decoder": False,
        "num_latents": dictionary.d_sae,
        "k": dictionary.k,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": dictionary.d_in,
    }
    weights = {
        "encoder.weight": np.ascontiguousarray(dictionary.W_enc.T),
        "encoder.bias": encoder_bias(dictionary, taken=1.0),
        "W_dec": np.ascontiguousarray(dictionary.W_dec),
        "b_dec": dictionary.b_dec,
    }
    return {"cfg.json": json_bytes(config), "sae.safetensors": save(weights)}
