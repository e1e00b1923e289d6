"""SAELens: ``cfg.json`` and ``sae_weights.safetensors``, of version 6 and before.

Architectures ``standard`` (ReLU), ``topk`` and ``jumprelu``; SAELens saves a trained BatchTopK,
plain or Matryoshka, as ``jumprelu`` with one threshold.
"""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from vasae_jax.dictionary.dictionary import Dictionary
from vasae_jax.interop.files import (
    encoder_bias,
    json_bytes,
    layer_naming,
    need,
    read_json,
    read_safetensors,
    site_and_model,
    table,
    text,
    whole,
)
from vasae_jax.interop.record import Activation, ForeignSAE, by_decoder_norm, make_foreign
from vasae_jax.sites import hook_name, site_of_hook
from vasae_jax.utils.errors import UserError

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
_ACTIVATIONS: dict[str, Activation] = {
    "standard": "relu",
    "topk": "topk",
    "jumprelu": "jumprelu",
}


def is_here(folder: Path) -> bool:
    """Whether ``folder`` holds one."""
    return (folder / WEIGHTS).is_file()


def read(folder: Path) -> ForeignSAE:
    """The SAE in ``folder``; UserError for one that cannot be kept exactly."""
    where = folder / CONFIG
    config = read_json(where)
    activation = _activation(config, where)
    _refuse(config, where)
    tensors = read_safetensors(folder / WEIGHTS)
    names = ("W_enc", "b_enc", "W_dec", "b_dec")
    need(tensors, names + (("threshold",) if activation == "jumprelu" else ()), folder / WEIGHTS)
    scale = tensors.get("scaling_factor", np.ones(1, np.float32))
    if not np.allclose(scale, 1):
        raise UserError(f"{folder / WEIGHTS} scales its activations; expected scaling_factor 1")
    weights = {name: tensors[name] for name in names}
    weights["W_enc"] = weights["W_enc"].T
    if config.get("rescale_acts_by_decoder_norm"):
        weights = by_decoder_norm(weights)
    if activation == "jumprelu":
        weights["threshold"] = tensors["threshold"]
    said = {**config, **table(config, "metadata")}
    return make_foreign(
        str(folder),
        weights,
        library="sae_lens",
        activation=activation,
        k=_k(config),
        pre_bias=float(bool(config.get("apply_b_dec_to_input", True))),
        site=site_of_hook(text(said, "hook_name"), where),
        model=text(said, "model_name") or None,
    )


def _activation(config: dict[str, Any], where: Path) -> Activation:
    architecture = str(config.get("architecture", "standard"))
    if architecture not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise UserError(f"{where} has architecture {architecture!r}; expected one of {known}")
    # Before version 6 the architecture was "standard" for TopK too.
    inner = config.get("activation_fn") or config.get("activation_fn_str") or "relu"
    if architecture == "standard" and inner == "topk":
        return "topk"
    if architecture != "topk" and inner != "relu":
        raise UserError(f"{where} has activation {inner!r}; expected relu or topk")
    return _ACTIVATIONS[architecture]


def _k(config: dict[str, Any]) -> int | None:
    before_6 = table(config, "activation_fn_kwargs") or table(config, "activation_fn_params")
    return whole(config.get("k", before_6.get("k")))


def _refuse(config: dict[str, Any], where: Path) -> None:
    for key in ("normalize_activations", "reshape_activations"):
        if config.get(key) not in (None, "none"):
            raise UserError(
                f"{where} has {key} {config[key]!r}, which changes its input before it is encoded; "
                "expected none (SAELens can fold a constant scale into the weights)"
            )


# SAELens (6.x): ``cfg.json`` and ``sae_weights.safetensors``.
#
# Architecture ``topk``, or ``jumprelu`` where thresholds decide (ReLU: all of them 0).
#
# It can encode x or x - b_dec (``apply_b_dec_to_input``): pre_bias 1 and 0 are written as they
# are, any other share is folded into b_enc. Layer names lie in its free metadata. It reads metadata
# only of a file that states a SAELens version from 6 on.


WRITTEN_FOR = "6.0.0"
"""The first SAELens of this form."""


def files(dictionary: Dictionary) -> dict[str, bytes]:
    """The files' content by name."""
    taken = 1.0 if dictionary.pre_bias == 1 else 0.0
    site, model = site_and_model(dictionary)
    provenance = dictionary.meta["provenance"]
    config = {
        **_activation_settings(dictionary),
        "d_in": dictionary.d_in,
        "d_sae": dictionary.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": taken == 1,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "model_name": model,
            "hook_name": hook_name(site),
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


def _activation_settings(dictionary: Dictionary) -> dict[str, Any]:
    if dictionary.k == dictionary.d_sae:
        return {"architecture": "jumprelu"}
    return {"architecture": "topk", "k": dictionary.k, "rescale_acts_by_decoder_norm": False}
