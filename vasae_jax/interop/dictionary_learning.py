"""dictionary_learning (saprmarks): ``config.json`` and ``ae.pt``, read by torch.

Classes ``AutoEncoderTopK``; ``BatchTopKSAE`` and ``MatryoshkaBatchTopKSAE``, which once trained
apply one threshold; ``JumpReluAutoEncoder``; ``AutoEncoder`` and ``AutoEncoderNew`` (ReLU).
"""

import io
from pathlib import Path
from typing import Any

import numpy as np

from vasae_jax.dictionary.dictionary import Dictionary
from vasae_jax.interop.files import (
    encoder_bias,
    json_bytes,
    layer_naming,
    need,
    read_json,
    read_torch,
    site_and_model,
    table,
    text,
    whole,
)
from vasae_jax.interop.record import Activation, ForeignSAE, by_decoder_norm, make_foreign
from vasae_jax.sites import Site, site_of_hook
from vasae_jax.utils.errors import UserError

CONFIG, WEIGHTS = "config.json", "ae.pt"

_CLASSES: dict[str, tuple[Activation, float]] = {
    "AutoEncoderTopK": ("topk", 1.0),
    "BatchTopKSAE": ("batchtopk", 1.0),
    "MatryoshkaBatchTopKSAE": ("batchtopk", 1.0),
    "JumpReluAutoEncoder": ("jumprelu", 0.0),
    "AutoEncoder": ("relu", 1.0),
    "AutoEncoderNew": ("relu", 0.0),
}
"""Each class's activation and the share of b_dec that it takes from its input."""

_LINEAR = {
    "encoder.weight": "W_enc",
    "encoder.bias": "b_enc",
    "decoder.weight": "W_dec",
    "decoder.bias": "b_dec",
    "bias": "b_dec",
    "b_dec": "b_dec",
}


def is_here(folder: Path) -> bool:
    """Whether ``folder`` holds one."""
    return (folder / WEIGHTS).is_file()


def read(folder: Path) -> ForeignSAE:
    """The SAE in ``folder``; UserError for one that cannot be kept exactly."""
    where = folder / CONFIG
    trainer = table(read_json(where), "trainer")
    kind = text(trainer, "dict_class")
    if kind not in _CLASSES:
        raise UserError(f"{where} has dict_class {kind!r}; expected one of {', '.join(_CLASSES)}")
    activation, pre_bias = _CLASSES[kind]
    tensors = read_torch(folder / WEIGHTS)
    weights = _weights(tensors, folder / WEIGHTS)
    if activation == "batchtopk":
        weights["threshold"] = _threshold(tensors, folder / WEIGHTS)
    if kind == "AutoEncoder":  # the library does so when it loads one
        weights = by_decoder_norm(weights)
    return make_foreign(
        str(folder),
        weights,
        library="dictionary_learning",
        activation=activation,
        k=whole(trainer.get("k")),
        pre_bias=pre_bias,
        site=_site(trainer, where),
        model=text(trainer, "lm_name") or None,
    )


def _weights(tensors: dict[str, np.ndarray], where: Path) -> dict[str, np.ndarray]:
    if "W_enc" in tensors:
        names = ("W_enc", "b_enc", "W_dec", "b_dec")
        need(tensors, names, where)
        found = {name: tensors[name] for name in names}
        found["W_enc"] = found["W_enc"].T
        jumps = tensors.get("threshold")
        return found if jumps is None or jumps.ndim == 0 else {**found, "threshold": jumps}
    need(tensors, ("encoder.weight", "encoder.bias", "decoder.weight"), where)
    found = {ours: tensors[theirs] for theirs, ours in _LINEAR.items() if theirs in tensors}
    if "b_dec" not in found:
        raise UserError(f"{where} has no decoder bias; found {', '.join(sorted(tensors))}")
    found["W_dec"] = found["W_dec"].T
    return found


def _threshold(tensors: dict[str, np.ndarray], where: Path) -> np.ndarray:
    need(tensors, ("threshold",), where)
    threshold = tensors["threshold"]
    if float(threshold) < 0:
        raise UserError(
            f"{where} has threshold {float(threshold):g}, the mark of one that was never "
            "estimated; expected a BatchTopK that was trained past its threshold_start_step"
        )
    return threshold


def _site(trainer: dict[str, Any], where: Path) -> Site | None:
    """The site that the trainer notes: a layer, where its submodule is a block's output."""
    layer, module = whole(trainer.get("layer")), text(trainer, "submodule_name")
    if layer is not None and layer >= 0 and (not module or module.startswith("resid_post")):
        return Site(layer)
    return site_of_hook(module, where)


# dictionary_learning (0.1): ``config.json`` and ``ae.pt``.
#
# Class ``AutoEncoderTopK``, which encodes x - b_dec, or ``JumpReluAutoEncoder``, which encodes x,
# where thresholds decide; another share of b_dec is folded into the encoder's bias. ``ae.pt`` is
# torch's own format, so torch is needed to write it.
# Layer names lie in ``config.json`` beside the trainer's settings, and are loaded with them.


def files(dictionary: Dictionary) -> dict[str, bytes]:
    """The files' content by name; UserError if torch is not installed."""
    topk = dictionary.k < dictionary.d_sae
    site, model = site_and_model(dictionary)
    trainer = {
        "dict_class": "AutoEncoderTopK" if topk else "JumpReluAutoEncoder",
        "activation_dim": dictionary.d_in,
        "dict_size": dictionary.d_sae,
        **({"k": dictionary.k} if topk else {}),
        "layer": site.layer,
        "lm_name": model,
        "submodule_name": f"{site.kind}_layer_{site.layer}",
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
