"""Gemma Scope's ``params.npz``: JumpReLU on the row itself, arrays and nothing else.

Nothing is taken from the row there: the share of b_dec is folded into the encoder's bias.
"""

import io

import numpy as np

from vasae_jax.dictionary.layouts.files import encoder_bias, refuse_topk
from vasae_jax.named.dictionary import Dictionary


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
