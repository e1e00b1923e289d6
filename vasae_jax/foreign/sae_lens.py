"""SAELens: ``cfg.json`` and ``sae_weights.safetensors``, of version 6 and before.

Architectures ``standard`` (ReLU), ``topk`` and ``jumprelu``; SAELens saves a trained BatchTopK,
plain or Matryoshka, as ``jumprelu`` with one threshold.
"""

from pathlib import Path
from typing import Any

import numpy as np

from vasae_jax.extract.hooks import layer_of_hook
from vasae_jax.foreign.files import need, read_json, read_safetensors, table, text, whole
from vasae_jax.foreign.record import Activation, ForeignSAE, by_decoder_norm, make_foreign
from vasae_jax.system.errors import UserError

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
        layer=layer_of_hook(text(said, "hook_name"), where),
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
