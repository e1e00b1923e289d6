"""dictionary_learning (saprmarks, 0.1): ``config.json`` and ``ae.pt``, torch's own format.

Classes ``AutoEncoderTopK``; ``BatchTopKSAE`` and ``MatryoshkaBatchTopKSAE``, which once trained
apply one threshold; ``JumpReluAutoEncoder``; ``AutoEncoder`` and ``AutoEncoderNew`` (ReLU).

``AutoEncoderTopK``, which encodes x - b_dec, and ``JumpReluAutoEncoder``, which encodes x, are
written; another share of b_dec is folded into the encoder's bias. Layer names lie in
``config.json`` beside the trainer's settings, and are loaded with them.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np

from vasae_jax.dictionary.dictionary import Dictionary
from vasae_jax.interop import common
from vasae_jax.interop.record import SAME_NAMES, ForeignSAE, by_decoder_norm, make_foreign
from vasae_jax.sites import Site, site_of_hook
from vasae_jax.utils.errors import UserError

CONFIG, WEIGHTS = "config.json", "ae.pt"

_CLASSES: dict[str, tuple[str, float]] = {
    "AutoEncoderTopK": ("topk", 1.0),
    "BatchTopKSAE": ("batchtopk", 1.0),
    "MatryoshkaBatchTopKSAE": ("batchtopk", 1.0),
    "JumpReluAutoEncoder": ("jumprelu", 0.0),
    "AutoEncoder": ("relu", 1.0),
    "AutoEncoderNew": ("relu", 0.0),
}
"""Each class's architecture here and the share of b_dec that it takes from its input."""

_LINEAR = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "decoder.weight": "W_dec"}
_DECODER_BIASES = ("b_dec", "bias", "decoder.bias")


def read(folder: Path) -> ForeignSAE:
    """The SAE in ``folder``; UserError for one that cannot be kept exactly."""
    where = folder / CONFIG
    trainer = common.get_table(common.read_config(where), "trainer")
    name = common.get_text(trainer, "dict_class")
    if name not in _CLASSES:
        raise UserError(f"{where} has dict_class {name!r}; expected one of {', '.join(_CLASSES)}")
    architecture, pre_bias = _CLASSES[name]
    tensors = common.read_tensors(folder / WEIGHTS)
    weights = _weights(tensors, folder / WEIGHTS)
    if architecture == "batchtopk":
        weights["threshold"] = _threshold(tensors, folder / WEIGHTS)
    if name == "AutoEncoder":  # the library does so when it loads one
        weights = by_decoder_norm(weights)
    return make_foreign(
        str(folder),
        weights,
        library="dictionary_learning",
        architecture=architecture,
        k=common.as_int(trainer.get("k")),
        pre_bias=pre_bias,
        site=_site(trainer, where),
        model=common.get_text(trainer, "lm_name") or None,
    )


def _weights(tensors: dict[str, np.ndarray], where: Path) -> dict[str, np.ndarray]:
    if "W_enc" in tensors:
        weights = common.pick(tensors, SAME_NAMES, where)
        weights["W_enc"] = weights["W_enc"].T
        if "threshold" in tensors and tensors["threshold"].ndim:
            weights["threshold"] = tensors["threshold"]
        return weights
    bias = next((name for name in _DECODER_BIASES if name in tensors), None)
    if bias is None:
        raise UserError(f"{where} has no decoder bias; found {', '.join(sorted(tensors))}")
    weights = common.pick(tensors, {**_LINEAR, bias: "b_dec"}, where)
    weights["W_dec"] = weights["W_dec"].T
    return weights


def _threshold(tensors: dict[str, np.ndarray], where: Path) -> np.ndarray:
    threshold = common.pick(tensors, {"threshold": "threshold"}, where)["threshold"]
    if float(threshold) < 0:
        raise UserError(
            f"{where} has threshold {float(threshold):g}, the mark of one that was never "
            "estimated; expected a BatchTopK that was trained past its threshold_start_step"
        )
    return threshold


def _site(trainer: dict[str, Any], where: Path) -> Site | None:
    """The site that the trainer notes: a layer, where its submodule is a block's output."""
    layer, module = common.as_int(trainer.get("layer")), common.get_text(trainer, "submodule_name")
    if layer is not None and layer >= 0 and (not module or module.startswith("resid_post")):
        return Site(layer)
    return site_of_hook(module, where)


def files(dictionary: Dictionary) -> dict[str, bytes]:
    """The files' content by name.

    Raises:
        UserError: torch is not installed, or the library has no such activation.
    """
    common.check_activation(dictionary, "dictionary_learning", ["topk", "jumprelu", "relu"])
    topk = dictionary.activation.kind == "topk"
    site, model = common.site_and_model(dictionary)
    trainer = {
        "dict_class": "AutoEncoderTopK" if topk else "JumpReluAutoEncoder",
        "activation_dim": dictionary.d_in,
        "dict_size": dictionary.d_sae,
        **({"k": dictionary.k} if topk else {}),
        "layer": site.layer,
        "lm_name": model,
        "submodule_name": f"{site.kind}_layer_{site.layer}",
    }
    arrays = _topk(dictionary) if topk else _jumprelu(dictionary)
    config = {"trainer": trainer, "layer_names": common.layer_naming(dictionary)}
    return {CONFIG: common.json_bytes(config), WEIGHTS: _torch_bytes(arrays)}


def _topk(dictionary: Dictionary) -> dict[str, np.ndarray]:
    return {
        "k": np.array(dictionary.k, np.int32),
        "threshold": np.array(-1, np.float32),  # below 0: the library's mark for "not estimated"
        "decoder.weight": dictionary.W_dec.T,
        "encoder.weight": dictionary.W_enc.T,
        "encoder.bias": common.encoder_bias(dictionary, 1.0),
        "b_dec": dictionary.b_dec,
    }


def _jumprelu(dictionary: Dictionary) -> dict[str, np.ndarray]:
    return {
        "W_enc": dictionary.W_enc,
        "b_enc": common.encoder_bias(dictionary, 0.0),
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
