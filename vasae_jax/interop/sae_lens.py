"""SAELens: ``cfg.json`` and ``sae_weights.safetensors``; reads version 6 and before, writes 6.

Architectures ``standard`` (ReLU), ``topk`` and ``jumprelu``; SAELens saves a trained BatchTopK,
plain or Matryoshka, as ``jumprelu`` with one threshold. ReLU is written as ``jumprelu`` with
thresholds of 0.

It encodes x or x - b_dec (``apply_b_dec_to_input``): pre_bias 1 and 0 are written as they are, any
other share is folded into b_enc. Layer names lie in its free metadata, which it reads only of a
file that states a SAELens version from 6 on.
"""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from vasae_jax.dictionary.dictionary import Dictionary
from vasae_jax.interop import common
from vasae_jax.interop.record import SAME_NAMES, ForeignSAE, by_decoder_norm, make_foreign
from vasae_jax.sites import hook_name, site_of_hook
from vasae_jax.utils.errors import UserError

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
_READ = {"standard": "relu", "topk": "topk", "jumprelu": "jumprelu"}
"""Architectures that are read, and ours for each."""
_WRITTEN = {"topk": "topk", "jumprelu": "jumprelu", "relu": "jumprelu"}
"""The architecture that each of our activations is written as."""
WRITTEN_FOR = "6.0.0"
"""The first SAELens of the form that is written."""


def read(folder: Path) -> ForeignSAE:
    """The SAE in ``folder``; UserError for one that cannot be kept exactly."""
    where = folder / CONFIG
    config = common.read_config(where)
    architecture = _architecture(config, where)
    _check_inputs(config, where)
    tensors = common.read_tensors(folder / WEIGHTS)
    threshold = {"threshold": "threshold"} if architecture == "jumprelu" else {}
    weights = common.pick(tensors, SAME_NAMES | threshold, folder / WEIGHTS)
    weights["W_enc"] = weights["W_enc"].T
    if config.get("rescale_acts_by_decoder_norm"):
        weights = by_decoder_norm(weights)
    origin = {**config, **common.get_table(config, "metadata")}
    return make_foreign(
        str(folder),
        weights,
        library="sae_lens",
        architecture=architecture,
        k=_k(config),
        pre_bias=float(bool(config.get("apply_b_dec_to_input", True))),
        site=site_of_hook(common.get_text(origin, "hook_name"), where),
        model=common.get_text(origin, "model_name") or None,
    )


def _architecture(config: dict[str, Any], where: Path) -> str:
    architecture = str(config.get("architecture", "standard"))
    if architecture not in _READ:
        known = ", ".join(_READ)
        raise UserError(f"{where} has architecture {architecture!r}; expected one of {known}")
    # Before version 6 the architecture was "standard" for TopK too.
    inner = config.get("activation_fn") or config.get("activation_fn_str") or "relu"
    if architecture == "standard" and inner == "topk":
        return "topk"
    if architecture != "topk" and inner != "relu":
        raise UserError(f"{where} has activation {inner!r}; expected relu or topk")
    return _READ[architecture]


def _k(config: dict[str, Any]) -> int | None:
    for key in ("activation_fn_kwargs", "activation_fn_params"):  # before version 6
        config = common.get_table(config, key) | config
    return common.as_int(config.get("k"))


def _check_inputs(config: dict[str, Any], where: Path) -> None:
    """Raise UserError where rows are changed before they are encoded."""
    for key in ("normalize_activations", "reshape_activations"):
        if config.get(key) not in (None, "none"):
            raise UserError(
                f"{where} has {key} {config[key]!r}, which changes its input before it is encoded; "
                "expected none (SAELens can fold a constant scale into the weights)"
            )


def files(dictionary: Dictionary) -> dict[str, bytes]:
    """The files' content by name; UserError for an activation that SAELens does not have."""
    common.check_activation(dictionary, "sae_lens", _WRITTEN)
    architecture = _WRITTEN[dictionary.activation.kind]
    topk = architecture == "topk"
    pre_bias = 1.0 if dictionary.pre_bias == 1 else 0.0
    site, model = common.site_and_model(dictionary)
    provenance = dictionary.meta["provenance"]
    config = {
        "architecture": architecture,
        **({"k": dictionary.k, "rescale_acts_by_decoder_norm": False} if topk else {}),
        "d_in": dictionary.d_in,
        "d_sae": dictionary.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": pre_bias == 1,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "model_name": model,
            "hook_name": hook_name(site),
            "context_size": provenance["context_length"],
            "prepend_bos": provenance["bos"],
            "made_by": dictionary.meta["created_by"],
            "sae_lens_version": WRITTEN_FOR,
            "layer_names": common.layer_naming(dictionary),
        },
    }
    weights = {
        "W_enc": np.ascontiguousarray(dictionary.W_enc),
        "b_enc": common.encoder_bias(dictionary, pre_bias),
        "W_dec": np.ascontiguousarray(dictionary.W_dec),
        "b_dec": dictionary.b_dec,
        **({} if topk else {"threshold": dictionary.threshold}),
    }
    return {CONFIG: common.json_bytes(config), WEIGHTS: save(weights)}
