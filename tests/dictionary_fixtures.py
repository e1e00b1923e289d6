"""A small named dictionary for the tests of everything that is written from one."""

import numpy as np

from vasae_jax.activations import JumpReLU, TopK
from vasae_jax.cache.vocab import Vocab
from vasae_jax.evaluation.publish import META_HEAD, make_dictionary
from vasae_jax.evaluation.run import RunNames
from vasae_jax.names.by_embedding import nearest_tokens
from vasae_jax.names.by_layer import LayerNames
from vasae_jax.names.evidence import Evidence

D, F, V, K = 6, 20, 40, 4
M = 4
"""Layer names of a feature."""
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


def layer_names(seed=0):
    """Layer names without a tie to the weights: made-up tokens, of both relations."""
    rng = np.random.default_rng(seed + 20)
    ids = np.stack([rng.permutation(V)[:M] for _ in range(F)]).astype(np.int32)
    expected = rng.dirichlet(np.ones(M + 1), F)[:, :M].astype(np.float32)
    return LayerNames(ids, (np.arange(F) % 2).astype(np.int8), expected)


def made_up_evidence(seed=0):
    """Evidence with every verdict; the more often a feature fires, the less its names hold."""
    rng = np.random.default_rng(seed + 30)
    hold = np.linspace(0.9, 0.1, F)
    parts = -np.sort(-rng.dirichlet(np.ones(M), F) * hold[:, None])
    rows = rng.integers(0, 100, (F, M))
    first = np.resize([1, 0, -1, 1, 2], F)
    verdict = np.where(np.arange(M) == 0, first[:, None], np.resize([-1, -1, 1], (F, M)))
    verdict[first == 0] = 0
    return Evidence(
        name_hold=parts.astype(np.float32),
        name_lift=(parts * 50).astype(np.float32),
        name_rows=rows.astype(np.int32),
        name_text_rows=(2 * rows + 5).astype(np.int32),
        name_verdict=verdict.astype(np.int8),
        hold=hold.astype(np.float32),
        fired=rows.sum(axis=1).astype(np.int32) + 10,
        verdict=first.astype(np.int8),
        verdict_together=np.resize([1, 1, 0, -1, 1, 2], F).astype(np.int8),
    )


def dictionary(pre_bias=1.0, seed=0, vocab=None, thresholds=False):
    """The dictionary of :func:`params`, named by centred embeddings; TopK, or JumpReLU."""
    rng = np.random.default_rng(7)
    embedding = rng.normal(size=(V, D)).astype(np.float32) + 1
    rate = np.linspace(0, 0.5, F).astype(np.float32)
    meta = {
        **META_HEAD,
        "anchor": "input embeddings minus their mean",
        "fire_rate_over": "1000 rows",
        "hold_over": "900 rows",
        "provenance": dict(PROVENANCE),
        "config": {"sae": {"k": K}},
        "metrics": None,
    }
    weights = params(seed)
    if thresholds:
        weights["threshold"] = rng.uniform(0.2, 3, F).astype(np.float32)
    return make_dictionary(
        weights,
        activation=JumpReLU() if thresholds else TopK(K),
        pre_bias=pre_bias,
        names=RunNames(
            embedding=nearest_tokens(weights["W_dec"], embedding - embedding.mean(axis=0), 3),
            raw=nearest_tokens(weights["W_dec"], embedding, 3),
            layer=layer_names(seed),
            by="evidence",
            nearest=(),
        ),
        evidence=made_up_evidence(seed),
        vocab=vocab or token_strings(),
        fire_rate=rate,
        meta=meta,
    )
