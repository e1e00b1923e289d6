"""A small named dictionary for the tests of everything that is written from one."""

import numpy as np

from vasae_jax.cache.vocab import Vocab
from vasae_jax.dictionary.artefact import make_dictionary
from vasae_jax.dictionary.meta import make_meta
from vasae_jax.naming.nearest import nearest_tokens

D, F, V, K = 6, 20, 40, 4
PROVENANCE = {
    "model": {"id": "test/tiny", "revision": "r1", "family": "gpt2", "source_digest": "00"},
    "site": "resid_post",
    "layer": 3,
    "bos": True,
    "context_length": 128,
    "text": {"source": "test", "digest": "11"},
    "cache_digest": "22",
}


def params(seed=0):
    """Feature-major parameters of a small SAE, as the trainer has them."""
    rng = np.random.default_rng(seed)
    return {
        "W_enc": rng.normal(size=(F, D)).astype(np.float32),
        "b_enc": rng.normal(size=F).astype(np.float32),
        "W_dec": rng.normal(size=(F, D)).astype(np.float32),
        "b_dec": rng.normal(size=D).astype(np.float32) * 3,
    }


def token_strings():
    """Token strings with spaces, a byte that is no text, and one that JSON must escape."""
    strange = ("Ġthe", "Ã", '"', "\\", "Ċ", "<|endoftext|>", "é")
    return Vocab("byte_level", (*strange, *(f"Ġw{i}" for i in range(V - len(strange)))))


def dictionary(pre_bias=1.0, seed=0, vocab=None):
    """The dictionary of :func:`params`, named by centred embeddings."""
    rng = np.random.default_rng(7)
    embedding = rng.normal(size=(V, D)).astype(np.float32) + 1
    rate = np.linspace(0, 0.5, F).astype(np.float32)
    meta = make_meta(
        anchor="input embeddings minus their mean",
        fire_rate_over="1000 rows",
        provenance=PROVENANCE,
        config={"sae": {"k": K}},
        metrics=None,
    )
    weights = params(seed)
    return make_dictionary(
        weights,
        k=K,
        pre_bias=pre_bias,
        names=nearest_tokens(weights["W_dec"], embedding - embedding.mean(axis=0), 3),
        raw_names=nearest_tokens(weights["W_dec"], embedding, 3),
        vocab=vocab or token_strings(),
        fire_rate=rate,
        meta=meta,
    )
