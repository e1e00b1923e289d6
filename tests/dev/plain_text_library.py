"""A library that the package does not know: the example of docs/dev/extend.md.

It keeps an SAE in one JSON file, ``plain_sae.json``, with lists of numbers.
"""

from pathlib import Path

import numpy as np

from vasae_jax.dictionary.dictionary import Dictionary
from vasae_jax.interop.files import (
    as_int,
    check_activation,
    encoder_bias,
    json_bytes,
    pick,
    read_json,
    site_and_model,
)
from vasae_jax.interop.record import ForeignSAE, make_foreign
from vasae_jax.sites import Site

FILE = "plain_sae.json"
_NAMES = {"encoder": "W_enc", "encoder_bias": "b_enc", "decoder": "W_dec", "decoder_bias": "b_dec"}
"""Its names of the parameters, and ours."""


def is_here(folder: Path) -> bool:
    """Whether ``folder`` holds one."""
    return (folder / FILE).is_file()


def read(folder: Path) -> ForeignSAE:
    """The SAE in ``folder``; UserError for one that cannot be kept exactly."""
    path = folder / FILE
    record = read_json(path)
    arrays = {name: np.array(value, np.float32) for name, value in record["weights"].items()}
    return make_foreign(
        str(path),
        pick(arrays, _NAMES, path),
        library="plain_text",
        architecture="topk",
        k=as_int(record.get("k")),
        pre_bias=0.0,
        site=Site.parse(record["site"]),
        model=record["model"],
    )


def files(dictionary: Dictionary) -> dict[str, bytes]:
    """The file's content by name; UserError for another activation than TopK."""
    check_activation(dictionary, "plain_text", ["topk"])
    site, model = site_and_model(dictionary)
    weights = {
        "encoder": dictionary.W_enc.T,
        "encoder_bias": encoder_bias(dictionary, 0.0),
        "decoder": dictionary.W_dec,
        "decoder_bias": dictionary.b_dec,
    }
    record = {
        "model": model,
        "site": str(site),
        "k": dictionary.k,
        "weights": {name: value.tolist() for name, value in weights.items()},
    }
    return {FILE: json_bytes(record)}
