"""Gemma Scope: ``params.npz`` (Gemma 2) or ``params.safetensors`` (Gemma 3), JumpReLU.

The layer is in the path (``layer_20/width_16k/...``). The row itself is encoded: a share of b_dec
that a dictionary takes from it is folded into the encoder's bias. ``params.npz`` is written.
"""

import io
import re
from pathlib import Path

import numpy as np

from vasae_jax.dictionary.dictionary import Dictionary
from vasae_jax.interop import common
from vasae_jax.interop.record import SAME_NAMES, ForeignSAE, make_foreign
from vasae_jax.sites import Site
from vasae_jax.utils.errors import UserError

SAFETENSORS, NPZ = WEIGHTS = ("params.safetensors", "params.npz")
_ELSEWHERE = ("transcoder", "clt", "attn_out", "mlp_out", "embedding")


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
    layers = [match for part in parts if (match := re.match(r"layer_(\d+)", part))]
    return make_foreign(
        str(path),
        weights,
        library="gemma_scope",
        architecture="jumprelu",
        site=Site(int(layers[-1][1])) if layers else None,
    )


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
