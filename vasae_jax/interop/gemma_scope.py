"""Gemma Scope: ``params.npz`` (Gemma 2) or ``params.safetensors`` (Gemma 3), JumpReLU.

The layer is in the path (``layer_20/width_16k/...``). Nothing is taken from the input before it
is encoded.
"""

import io
import re
from pathlib import Path

import numpy as np

from vasae_jax.dictionary.dictionary import Dictionary
from vasae_jax.interop.files import encoder_bias, need, read_npz, read_safetensors, refuse_topk
from vasae_jax.interop.record import ForeignSAE, make_foreign
from vasae_jax.sites import Site
from vasae_jax.utils.errors import UserError

NPZ, SAFETENSORS = "params.npz", "params.safetensors"
_ELSEWHERE = ("transcoder", "clt", "attn_out", "mlp_out", "embedding")


def is_here(folder: Path) -> bool:
    """Whether ``folder`` holds one."""
    return (folder / NPZ).is_file() or (folder / SAFETENSORS).is_file()


def read(folder: Path) -> ForeignSAE:
    """The SAE in ``folder``; UserError for one that cannot be kept exactly."""
    path = folder / (SAFETENSORS if (folder / SAFETENSORS).is_file() else NPZ)
    parts = folder.resolve().parts[-4:]
    for word in _ELSEWHERE:
        if any(part.startswith(word) for part in parts):
            raise UserError(f"{folder} is of kind {word}; expected one of a residual stream")
    tensors = _tensors(path)
    need(tensors, ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"), path)
    if not np.allclose(tensors.pop("scaling_factor", np.ones(1)), 1):
        raise UserError(f"{path} scales its activations; expected scaling_factor 1")
    weights = {name: tensors[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")}
    weights["W_enc"] = weights["W_enc"].T
    layers = [found for part in parts if (found := re.match(r"layer_(\d+)", part))]
    return make_foreign(
        str(path),
        weights,
        library="gemma_scope",
        activation="jumprelu",
        site=Site(int(layers[-1][1])) if layers else None,
    )


def _tensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays, their names as Gemma 2's have them (Gemma 3's are in lower case)."""
    read_file = read_npz if path.suffix == ".npz" else read_safetensors
    found = read_file(path).items()
    return {"W_" + name[2:] if name.startswith("w_") else name: array for name, array in found}


# Gemma Scope's ``params.npz``: JumpReLU on the row itself, arrays and nothing else.
#
# Nothing is taken from the row there: the share of b_dec is folded into the encoder's bias.


def files(dictionary: Dictionary) -> dict[str, bytes]:
    """The file's content by name; UserError for TopK, which has no thresholds."""
    refuse_topk(dictionary, "gemma_scope")
    out = io.BytesIO()
    np.savez(
        out,
        W_enc=dictionary.W_enc,
        W_dec=dictionary.W_dec,
        b_enc=encoder_bias(dictionary, taken=0.0),
        b_dec=dictionary.b_dec,
        threshold=dictionary.threshold,
    )
    return {"params.npz": out.getvalue()}
