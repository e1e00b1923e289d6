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
from vasae_jax.interop.settings import (
    TABLE,
    TEXT_OR_NONE,
    WHOLE,
    WHOLE_OR_NONE,
    check_settings,
    check_sizes,
    harmless,
    only,
)
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
_BUFFERS = {"topk": ("k", "threshold"), "batchtopk": ("k", "threshold", "group_sizes")}
"""What a class stores beside its weights; TopK's threshold is for another way of encoding."""

_SETTINGS = {"trainer": TABLE, "buffer": TABLE, **harmless("layer_names")}
_TRAINER = {
    "dict_class": only(*_CLASSES),
    "activation_dim": WHOLE,
    "dict_size": WHOLE,
    "k": WHOLE_OR_NONE,
    "layer": WHOLE_OR_NONE,
    "lm_name": TEXT_OR_NONE,
    "submodule_name": TEXT_OR_NONE,
    **harmless(
        """trainer_class wandb_name device seed steps lr warmup_steps decay_start resample_steps
        l1_penalty l0_penalty sparsity_penalty sparsity_warmup_steps sparsity_function
        sparsity_queue_length sparsity_coefficient n_sparsity_updates p_start p_end anneal_start
        steps_before_annealing lambda_warm_steps target_l0 bandwidth auxk_alpha top_k_aux
        threshold_beta threshold_start_step group_fractions group_weights group_sizes
        weights_temperature"""
    ),
}
_BUFFER = {
    "io": only("out"),
    "layer": only(None),  # of a buffer with the outputs of attention heads
    **harmless("d_submodule n_ctxs ctx_len refresh_batch_size out_batch_size device"),
}


def read(folder: Path) -> ForeignSAE:
    """The SAE in ``folder``; UserError for one that cannot be kept exactly."""
    where, stored = folder / CONFIG, folder / WEIGHTS
    trainer = _trainer(where)
    architecture, pre_bias = _CLASSES[trainer["dict_class"]]
    tensors = common.read_tensors(stored)
    weights = _weights(tensors, architecture, stored)
    check_sizes(trainer, weights["W_dec"], "activation_dim", "dict_size", where)
    _check_buffers(tensors, trainer, len(weights["W_dec"]), where)
    if trainer["dict_class"] == "AutoEncoder":  # the library does so when it loads one
        weights = by_decoder_norm(weights, str(stored))
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


def _trainer(where: Path) -> dict[str, Any]:
    """The trainer's settings; UserError where they or the buffer's are not all known."""
    config = common.read_config(where)
    check_settings(config, _SETTINGS, where)
    trainer = common.get_table(config, "trainer")
    check_settings({"dict_class": None} | trainer, _TRAINER, where)
    check_settings(common.get_table(config, "buffer"), _BUFFER, f"buffer of {where}")
    return trainer


def _weights(
    tensors: dict[str, np.ndarray], architecture: str, where: Path
) -> dict[str, np.ndarray]:
    """Weights by our names, with the threshold of an architecture that has one."""
    names = dict(SAME_NAMES)
    if "W_enc" not in tensors:
        bias = next((name for name in _DECODER_BIASES if name in tensors), "b_dec")
        names = {**_LINEAR, bias: "b_dec"}
    if architecture in ("batchtopk", "jumprelu"):
        names["threshold"] = "threshold"
    weights = common.pick(tensors, names, where, _BUFFERS.get(architecture, ()))
    if architecture == "batchtopk":
        _check_estimated(weights["threshold"], where)
    turned = "W_enc" if "W_enc" in tensors else "W_dec"
    return {**weights, turned: weights[turned].T}


def _check_estimated(threshold: np.ndarray, where: Path) -> None:
    """Raise UserError for a BatchTopK whose one threshold was never estimated."""
    if threshold.ndim:
        raise UserError(f"{where} has a threshold of shape {threshold.shape}; expected one number")
    if float(threshold) < 0:
        raise UserError(
            f"{where} has threshold {float(threshold):g}, the mark of one that was never "
            "estimated; expected a BatchTopK that was trained past its threshold_start_step"
        )


def _check_buffers(
    tensors: dict[str, np.ndarray], trainer: dict[str, Any], d_sae: int, where: Path
) -> None:
    """Raise UserError where what is stored beside the weights is not what the settings say.

    The library zeroes the features beyond the sum of a Matryoshka's groups.
    """
    k, groups = tensors.get("k"), tensors.get("group_sizes")
    if k is not None and k.size != 1:
        raise UserError(f"{where.parent / WEIGHTS} has k of shape {k.shape}; expected one number")
    if k is not None and trainer.get("k") is not None and k.item() != trainer["k"]:
        raise UserError(f"{where} has k {trainer['k']} and {WEIGHTS} {k}; expected one k")
    if groups is not None and groups.sum() != d_sae:
        raise UserError(
            f"{where.parent / WEIGHTS} has groups of {groups.sum():.0f} features in all; expected "
            f"all {d_sae}"
        )


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
