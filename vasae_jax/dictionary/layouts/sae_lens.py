"""SAELens (6.x): ``cfg.json`` and ``sae_weights.safetensors``.

Architecture ``topk``, or ``jumprelu`` where thresholds decide (ReLU: all of them 0).

It can encode x or x - b_dec (``apply_b_dec_to_input``): pre_bias 1 and 0 are written as they
are, any other share is folded into b_enc. Layer names lie in its free metadata. It reads metadata
only of a file that states a SAELens version from 6 on.
"""

from typing import Any

import numpy as np
from safetensors.numpy import save

from vasae_jax.dictionary.layouts.files import (
    encoder_bias,
    json_bytes,
    layer_and_model,
    layer_naming,
)
from vasae_jax.named.dictionary import Dictionary

WRITTEN_FOR = "6.0.0"
"""The first SAELens of this form."""


def files(dictionary: Dictionary) -> dict[str, bytes]:
    """The files' content by name."""
    taken = 1.0 if dictionary.pre_bias == 1 else 0.0
    layer, model = layer_and_model(dictionary)
    provenance = dictionary.meta["provenance"]
    config = {
        **_activation(dictionary),
        "d_in": dictionary.d_in,
        "d_sae": dictionary.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": taken == 1,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "model_name": model,
            "hook_name": f"blocks.{layer}.hook_resid_post",
            "context_size": provenance["context_length"],
            "prepend_bos": provenance["bos"],
            "made_by": dictionary.meta["created_by"],
            "sae_lens_version": WRITTEN_FOR,
            "layer_names": layer_naming(dictionary),
        },
    }
    weights = {
        "W_enc": np.ascontiguousarray(dictionary.W_enc),
        "b_enc": encoder_bias(dictionary, taken=taken),
        "W_dec": np.ascontiguousarray(dictionary.W_dec),
        "b_dec": dictionary.b_dec,
    }
    if dictionary.k == dictionary.d_sae:
        weights["threshold"] = dictionary.threshold
    return {"cfg.json": json_bytes(config), "sae_weights.safetensors": save(weights)}


def _activation(dictionary: Dictionary) -> dict[str, Any]:
    if dictionary.k == dictionary.d_sae:
        return {"architecture": "jumprelu"}
    return {"architecture": "topk", "k": dictionary.k, "rescale_acts_by_decoder_norm": False}
