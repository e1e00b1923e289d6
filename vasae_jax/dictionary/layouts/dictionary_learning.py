"""dictionary_learning (0.1): ``config.json`` and ``ae.pt``, class ``AutoEncoderTopK``.

It always encodes x - b_dec: pre_bias 1 is written as it is, any other share is folded into
the encoder's bias. ``ae.pt`` is torch's own format, so torch is needed to write it.
Layer names lie in ``config.json`` beside the trainer's settings, and are loaded with them.
"""

import io

import numpy as np

from vasae_jax.dictionary.artefact import Dictionary
from vasae_jax.dictionary.layouts.files import (
    encoder_bias,
    json_bytes,
    layer_and_model,
    layer_naming,
)
from vasae_jax.system.errors import UserError


def files(dictionary: Dictionary) -> dict[str, bytes]:
    """The files' content by name; UserError if torch is not installed."""
    layer, model = layer_and_model(dictionary)
    trainer = {
        "dict_class": "AutoEncoderTopK",
        "activation_dim": dictionary.d_in,
        "dict_size": dictionary.d_sae,
        "k": dictionary.k,
        "layer": layer,
        "lm_name": model,
        "submodule_name": f"resid_post_layer_{layer}",
    }
    arrays = {
        "k": np.array(dictionary.k, np.int32),
        "threshold": np.array(-1, np.float32),  # below 0: the library's mark for "not estimated"
        "decoder.weight": dictionary.W_dec.T,
        "encoder.weight": dictionary.W_enc.T,
        "encoder.bias": encoder_bias(dictionary, taken=1.0),
        "b_dec": dictionary.b_dec,
    }
    config = {"trainer": trainer, "layer_names": layer_naming(dictionary)}
    return {"config.json": json_bytes(config), "ae.pt": _torch_bytes(arrays)}


def _torch_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            "layout dictionary_learning needs torch, which is not installed; "
            "expected it from pip install 'vasae-jax[torch]'"
        ) from error
    out = io.BytesIO()
    torch.save({name: torch.from_numpy(array.copy("C")) for name, array in arrays.items()}, out)
    return out.getvalue()
