"""EleutherAI sparsify: ``cfg.json`` and ``sae.safetensors``, one folder a hookpoint.

Its TopK is relu, then the k largest. The folder's name is the module whose output it reads.
"""

from pathlib import Path

import numpy as np
from safetensors.numpy import save

from vasae_jax.dictionary.dictionary import Dictionary
from vasae_jax.interop.files import (
    encoder_bias,
    json_bytes,
    need,
    read_json,
    read_safetensors,
    whole,
)
from vasae_jax.interop.record import ForeignSAE, make_foreign
from vasae_jax.sites import Site, site_of_hook
from vasae_jax.utils.errors import UserError

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"


def is_here(folder: Path) -> bool:
    """Whether ``folder`` holds one."""
    return (folder / WEIGHTS).is_file()


def read(folder: Path) -> ForeignSAE:
    """The SAE in ``folder``; UserError for one that cannot be kept exactly."""
    where = folder / CONFIG
    config = read_json(where)
    activation = config.get("activation", "topk")
    if activation != "topk":
        raise UserError(f"{where} has activation {activation!r}; expected topk")
    for key in ("transcode", "skip_connection"):
        if config.get(key):
            raise UserError(
                f"{where} has {key} true, a transcoder; expected an SAE of one place's rows"
            )
    tensors = read_safetensors(folder / WEIGHTS)
    need(tensors, ("encoder.weight", "encoder.bias", "W_dec", "b_dec"), folder / WEIGHTS)
    weights = {
        "W_enc": tensors["encoder.weight"],
        "b_enc": tensors["encoder.bias"],
        "W_dec": tensors["W_dec"],
        "b_dec": tensors["b_dec"],
    }
    return make_foreign(
        str(folder),
        weights,
        library="sparsify",
        activation="topk",
        k=whole(config.get("k")),
        pre_bias=1.0,
        site=_site(folder),
    )


def _site(folder: Path) -> Site | None:
    name = folder.resolve().name
    return site_of_hook(name, folder) if name.startswith(("layers.", "h.")) else None


# EleutherAI sparsify (1.x): ``cfg.json`` and ``sae.safetensors``.
#
# It always encodes x - b_dec: pre_bias 1 is written as it is, any other share is folded into
# the encoder's bias. There is no room for layer names: its loader prints every key that it does
# not know, whole.


def files(dictionary: Dictionary) -> dict[str, bytes]:
    """The files' content by name; UserError unless the k largest decide what fires."""
    if dictionary.k == dictionary.d_sae:
        raise UserError(
            "the dictionary's thresholds decide what fires and layout sparsify has only TopK; "
            "expected a TopK SAE, or layout sae_lens, dictionary_learning or gemma_scope"
        )
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
        "encoder.bias": encoder_bias(dictionary, taken=1.0),
        "W_dec": np.ascontiguousarray(dictionary.W_dec),
        "b_dec": dictionary.b_dec,
    }
    return {"cfg.json": json_bytes(config), "sae.safetensors": save(weights)}
