"""dictionary_learning (0.1): ``config.json`` and ``ae.pt``.

Class ``AutoEncoderTopK``, which encodes x - b_dec, or ``JumpReluAutoEncoder``, which encodes x,
where thresholds decide; another share of b_dec is folded into the encoder's bias. ``ae.pt`` is
torch's own format, so torch is needed to write it.
Layer names lie in ``config.json`` beside the trainer's settings, and are loaded with them.
"""

import io

import numpy as np

from vasae_jax.dictionary.layouts.files import (
    encoder_bias,
    json_bytes,
    layer_and_model,
    layer_naming,
)
from vasae_jax.named.dictionary import Dictionary
from vasae_jax.system.errors import UserError


def files(dictionary: Dictionary) -> dict[str, bytes]:
    """The files' content by name; UserError if torch is not installed."""
    topk = dictionary.k < dictionary.d_sae
    layer, model = layer_and_model(dictionary)
    trainer = {
        "dict_class": "AutoEncoderTopK" if topk else "JumpReluAutoEncoder",
        "activation_dim": dictionary.d_in,
        "dict_size": dictionary.d_sae,
        **({"k": dictionary.k} if topk else {}),
        "layer": layer,
        "lm_name": model,
        "submodule_name": f"resid_post_layer_{layer}",
    }
    arrays = _topk(dictionary) if topk else _jump(dictionary)
    config = {"trainer": trainer, "layer_names": layer_naming(dictionary)}
    return {"config.json": json_bytes(config), "ae.pt": _torch_bytes(arrays)}


def _topk(dictionary: Dictionary) -> dict[str, np.ndarray]:
    return {
        "k": np.array(dictionary.k, np.int32),
        "threshold": np.array(-1, np.float32),  # below 0: the library's mark for "not estimated"
        "decoder.weight": dictionary.W_dec.T,
        "encoder.weight": dictionary.W_enc.T,
        "encoder.bias": encoder_bias(dictionary, taken=1.0),
        "b_dec": dictionary.b_dec,
    }


def _jump(dictionary: Dictionary) -> dict[str, np.ndarray]:
    return {
        "W_enc": dictionary.W_enc,
        "b_enc": encoder_bias(dictionary, taken=0.0),
        "W_dec": dictionary.W_dec,
        "b_dec": dictionary.b_dec,
        "threshold": dictionary.threshold,
    }


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
