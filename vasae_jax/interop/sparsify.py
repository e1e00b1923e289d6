"""EleutherAI sparsify (1.x): ``cfg.json`` and ``sae.safetensors``, one folder a hookpoint.

Its TopK is relu, then the k largest. The folder's name is the module whose output it reads. It
always encodes x - b_dec: pre_bias 1 is written as it is, any other share is folded into the
encoder's bias. Layer names are not written: its loader prints every key that it does not know.
"""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from vasae_jax.dictionary.dictionary import Dictionary
from vasae_jax.interop import common
from vasae_jax.interop.record import ForeignSAE, make_foreign
from vasae_jax.interop.settings import FLAG, WHOLE, check_settings, check_sizes, only
from vasae_jax.sites import site_of_hook
from vasae_jax.utils.errors import UserError

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
_NAMES = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}
_SETTINGS = {
    "activation": only("topk"),
    "k": WHOLE,
    "d_in": WHOLE,
    "num_latents": WHOLE,
    "expansion_factor": WHOLE,
    "normalize_decoder": FLAG,  # of the training alone
    "multi_topk": FLAG.noted(
        "multi_topk is true: sparsify's forward returns rows of 4k features; its encode, like what "
        "is read here, has k"
    ),
    "signed": only(False),  # before 1.0: the k largest by magnitude, of either sign
    "skip_connection": only(False),
    "transcode": only(False),
}


def read(folder: Path) -> ForeignSAE:
    """The SAE in ``folder``; UserError for one that cannot be kept exactly."""
    where = folder / CONFIG
    config = common.read_config(where)
    notes = check_settings(config, _SETTINGS, where)
    weights = common.pick(common.read_tensors(folder / WEIGHTS), _NAMES, folder / WEIGHTS)
    _check_latents(config, weights["W_dec"], where)
    name = folder.resolve().name
    if name == "embed_tokens":
        raise UserError(f"{folder} reads embeddings; expected a folder of a block's output")
    return make_foreign(
        str(folder),
        weights,
        library="sparsify",
        architecture="topk",
        k=common.as_int(config.get("k")),
        pre_bias=1.0,
        site=site_of_hook(name, folder) if name.startswith(("layers.", "h.")) else None,
        notes=notes,
    )


def _check_latents(config: dict[str, Any], W_dec: np.ndarray, where: Path) -> None:
    """Raise UserError unless the weights have the features that the file states."""
    stated = {"expansion_factor": 0, "d_in": 0} | config
    if not config.get("num_latents"):  # then sparsify multiplies
        stated["num_latents"] = stated["d_in"] * stated["expansion_factor"]
    check_sizes(stated, W_dec, "d_in", "num_latents", where)


def files(dictionary: Dictionary) -> dict[str, bytes]:
    """The files' content by name; UserError for another activation than TopK."""
    common.check_activation(dictionary, "sparsify", ["topk"])
    config = {
        "activation": "topk",
        "expansion_factor": max(1, dictionary.d_sae // dictionary.d_in),
        "normalize_decoder": False,
        "num_latents": dictionary.d_sae,
        "k": dictionary.k,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": dictionary.d_in,
    }
    weights = {
        "encoder.weight": np.ascontiguousarray(dictionary.W_enc.T),
        "encoder.bias": common.encoder_bias(dictionary, 1.0),
        "W_dec": np.ascontiguousarray(dictionary.W_dec),
        "b_dec": dictionary.b_dec,
    }
    return {CONFIG: common.json_bytes(config), WEIGHTS: save(weights)}
