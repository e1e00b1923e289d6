"""Gemma Scope: ``params.npz`` (Gemma 2) or ``params.safetensors`` (Gemma 3), JumpReLU.

The layer is in the path (``layer_20/width_16k/...``), and for Gemma 3 in ``config.json`` too. The
row itself is encoded: a share of b_dec that a dictionary takes from it is folded into the encoder's
bias. ``params.npz`` is written.
"""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np

from vasae_jax.dictionary.dictionary import Dictionary
from vasae_jax.interop import common
from vasae_jax.interop.record import SAME_NAMES, ForeignSAE, make_foreign
from vasae_jax.interop.settings import ANY, TEXT_OR_NONE, WHOLE, check_settings, check_sizes, only
from vasae_jax.sites import Site, site_of_hook
from vasae_jax.utils.errors import UserError

CONFIG = "config.json"
SAFETENSORS, NPZ = WEIGHTS = ("params.safetensors", "params.npz")
_ELSEWHERE = ("transcoder", "clt", "attn_out", "mlp_out", "embedding")
_SETTINGS = {
    "architecture": only("jump_relu"),
    "type": only("sae"),
    "affine_connection": only(False),
    "apply_b_dec_to_input": only(False),
    "width": WHOLE,
    "l0": ANY,
    **dict.fromkeys(("hf_hook_point_in", "hf_hook_point_out", "model_name"), TEXT_OR_NONE),
}


def read(folder: Path) -> ForeignSAE:
    """The SAE in ``folder``; UserError for one that cannot be kept exactly."""
    path = folder / (SAFETENSORS if (folder / SAFETENSORS).is_file() else NPZ)
    parts = folder.resolve().parts[-4:]
    for word in _ELSEWHERE:
        if any(part.startswith(word) for part in parts):
            raise UserError(f"{folder} is of kind {word}; expected one of a residual stream")
    # Gemma 3 has the names of Gemma 2 in lower case.
    tensors = {
        "W_" + name[2:] if name.startswith("w_") else name: array
        for name, array in common.read_tensors(path).items()
    }
    weights = common.pick(tensors, {**SAME_NAMES, "threshold": "threshold"}, path)
    weights["W_enc"] = weights["W_enc"].T
    config = _config(folder / CONFIG)
    check_sizes(config, weights["W_dec"], "d_in", "width", folder / CONFIG)
    return make_foreign(
        str(path),
        weights,
        library="gemma_scope",
        architecture="jumprelu",
        site=_site(parts, config, folder),
        model=common.get_text(config, "model_name") or None,
    )


def _config(where: Path) -> dict[str, Any]:
    """The settings beside the weights, empty where there are none.

    Raises:
        UserError: one is not known or not read, or the SAE predicts another place's rows.
    """
    if not where.exists():
        return {}
    config = common.read_config(where)
    check_settings(config, _SETTINGS, where)
    place, out = (common.get_text(config, f"hf_hook_point_{end}") for end in ("in", "out"))
    if out not in ("", place):
        raise UserError(f"{where} reads {place} and predicts {out}; expected one place for both")
    return config


def _site(parts: tuple[str, ...], config: dict[str, Any], folder: Path) -> Site | None:
    """The site that the path and the settings say; UserError where they disagree."""
    layers = [match for part in parts if (match := re.match(r"layer_(\d+)", part))]
    by_path = Site(int(layers[-1][1])) if layers else None
    stated = site_of_hook(common.get_text(config, "hf_hook_point_in"), folder / CONFIG)
    if by_path and stated and by_path != stated:
        raise UserError(f"{folder} is of {by_path} and its {CONFIG} of {stated}; expected one site")
    return stated or by_path


def files(dictionary: Dictionary) -> dict[str, bytes]:
    """The file's content by name; UserError for an activation without thresholds."""
    common.check_activation(dictionary, "gemma_scope", ["jumprelu", "relu"])
    out = io.BytesIO()
    np.savez(
        out,
        W_enc=dictionary.W_enc,
        W_dec=dictionary.W_dec,
        b_enc=common.encoder_bias(dictionary, 0.0),
        b_dec=dictionary.b_dec,
        threshold=dictionary.threshold,
    )
    return {NPZ: out.getvalue()}
