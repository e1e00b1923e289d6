"""A library that the package does not know: the example of docs/dev/extend.md.

It keeps an SAE in one JSON file, ``plain_sae.json``, with lists of numbers.
"""

import json
from pathlib import Path

import numpy as np

from vasae_jax.dictionary.dictionary import Dictionary
from vasae_jax.interop.record import ForeignSAE, make_foreign
from vasae_jax.sites import Site
from vasae_jax.utils.errors import UserError

FILE = "plain_sae.json"


def read(folder: Path) -> ForeignSAE:
    """The SAE in ``folder``; UserError for one that cannot be kept exactly."""
    path = folder / FILE
    try:
        record = json.loads(path.read_bytes())
        names = ("encoder", "encoder_bias", "decoder", "decoder_bias")
        W_enc, b_enc, W_dec, b_dec = (np.array(record[name], np.float32) for name in names)
        k, pre_bias, site, model = (record[key] for key in ("k", "pre_bias", "site", "model"))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}); expected an SAE as JSON") from error
    return make_foreign(
        str(path),
        {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec},
        library="plain_text",
        architecture="topk",
        k=k,
        pre_bias=pre_bias,
        site=Site.parse(site),
        model=model,
    )


def files(dictionary: Dictionary) -> dict[str, bytes]:
    """The file's content by name; UserError for another activation than TopK."""
    if dictionary.activation.kind != "topk":
        raise UserError(f"the dictionary has activation {dictionary.activation}; expected topk")
    origin = dictionary.meta["provenance"]
    record = {
        "model": origin["model"]["id"],
        "site": str(Site(origin["layer"], origin["site"])),
        "k": dictionary.k,
        "pre_bias": dictionary.pre_bias,
        "encoder": dictionary.W_enc.T.tolist(),  # one row for each feature
        "encoder_bias": dictionary.b_enc.tolist(),
        "decoder": dictionary.W_dec.tolist(),
        "decoder_bias": dictionary.b_dec.tolist(),
    }
    return {FILE: json.dumps(record).encode()}
