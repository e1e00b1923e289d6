"""Made-up reports of a run of any size, with hostile token strings among the others."""

import itertools
from dataclasses import replace

import numpy as np
from dictionary_fixtures import PROVENANCE

from vasae_jax.activations import TopK
from vasae_jax.cache.vocab import Vocab
from vasae_jax.config import Config, DataConfig
from vasae_jax.dictionary.dictionary import Dictionary
from vasae_jax.evaluation.examples.collect import BEFORE, EDGES, SHOWN, TOP, WIDTH, Examples
from vasae_jax.evaluation.neighbours import CofiringFeatures, LogitLensTokens
from vasae_jax.evaluation.publish import META_HEAD
from vasae_jax.evaluation.sentence import Cells
from vasae_jax.names.by_embedding import Names
from vasae_jax.names.scores import NameScores
from vasae_jax.report.heatmap import PUBLISHED, Heatmap, HeatmapLine
from vasae_jax.report.labels import RunLabel
from vasae_jax.report.run_report import NEIGHBOURS, RunReport

HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"'`",
    "</script><h1>",
    "\u202eabc\u2066",
    "\x00\x07\x1b[31m",
    "\ud800",
    "&lt;b&gt;",
    "javascript:alert(1)",
    "a\u2028b\u2029c",
    "שלום",
    "\\u003cscript\\u003e",
)
"""Strings that would become markup, end a script, run backwards or ring a bell."""
SYLLABLES = [a + b for a in "bdfgklmnprst" for b in ("a", "e", "o")]
WORDS = ("the", "of", "value", "iterable", "object", "return", "list", "name", "class", "method")


def vocab(size):
    """Hostile strings first, then words, then syllables in every combination."""
    count = size - len(HOSTILE) - len(WORDS)
    made = ("".join(parts) for parts in itertools.product(("", *SYLLABLES), SYLLABLES, SYLLABLES))
    rest = (*WORDS, *itertools.islice(made, count))
    return Vocab("plain", (*HOSTILE, *(f" {word}" for word in rest)))


def report(features=200, words=120, layer=3, seed=0):
    """A report in which feature i is named by tokens i, i + 1, ... of the vocabulary."""
    rng, strings = np.random.default_rng(seed), vocab(words)
    found = _dictionary(features, strings, layer, rng)
    ids = rng.integers(0, features, (features, NEIGHBOURS)).astype(np.int32)
    share = np.sort(rng.random((features, NEIGHBOURS)).astype(np.float32))[:, ::-1]
    tokens = rng.integers(0, words, (features, NEIGHBOURS)).astype(np.int32)
    config = replace(Config(), data=DataConfig(layer=layer))
    return RunReport(
        label=RunLabel(f"layer-{layer}", f"layer {layer}", "test/tiny", layer),
        config=config,
        dictionary=found,
        vocab=strings,
        vocab_key="v0",
        evaluation={"unmasked": {"rows": 1000, "variance_explained": 0.8, "l0": 4.0}},
        scores=(
            NameScores(
                "all", features, 0.3, 0.5, 0.49, 0.5, 0.9, 0.0, 0.0, 0.9, 0.003, 0.01, 0.4, 0.8, 0.8
            ),
        ),
        shuffled=np.full(features, 0.01, np.float32),
        split="heldout",
        examples=_examples(found, words, rng),
        histogram=rng.poisson(3, (features, len(EDGES) - 1)) * (np.arange(len(EDGES) - 1) % 9 < 6),
        near=Names(ids, share),
        cofiring=CofiringFeatures(np.where(share > 0.2, ids, -1), share, share),
        logit_lens=LogitLensTokens(tokens, share, tokens[:, ::-1], -share),
        curves=[{"step": s, "fvu": 1 / s, "mean_cosine": 0.1, "l0": 4.0} for s in range(1, 9)],
        fvu_by_position=np.r_[np.nan, np.linspace(0.3, 0.2, 19)],
    )


def _dictionary(features, strings, layer, rng):
    words = len(strings)
    ids = (np.arange(features)[:, None] + np.arange(10)[None, :]) % words
    hold = np.sort(rng.dirichlet(np.ones(11), features))[:, :0:-1].astype(np.float32)
    rate = (10.0 ** rng.uniform(-4, -1, features)).astype(np.float32)
    rate[1::50] = 0
    hold[rate == 0] = 0
    cosines = np.sort(rng.random((features, 10)).astype(np.float32))[:, ::-1]
    origin = {**PROVENANCE, "layer": layer}
    meta = {
        **META_HEAD,
        "anchor": "input embeddings minus their mean",
        "fire_rate_over": "1,000 unmasked rows of the heldout split",
        "hold_over": "1,000 unmasked rows of the heldout split",
        "provenance": origin,
        "config": {},
        "metrics": None,
    }
    rows = rng.normal(size=(features, 4)).astype(np.float32)
    verdict = np.where(rate > 0, np.resize([1, 1, 0, -1, 2], features), 0).astype(np.int8)
    verdict[: len(HOSTILE)] = 1  # so that their strings are shown
    each = np.repeat(verdict[:, None], 10, axis=1)
    each[:, 8:] = 0
    return Dictionary(
        W_enc=rows.T.copy(),
        b_enc=np.zeros(features, np.float32),
        W_dec=rows,
        b_dec=np.zeros(4, np.float32),
        activation=TopK(4),
        pre_bias=1.0,
        token_ids=ids[:, ::-1].astype(np.int32),
        cosines=cosines,
        raw_token_ids=ids.astype(np.int32),
        raw_cosines=cosines / 2,
        fire_rate=rate,
        layer_token_ids=ids.astype(np.int32),
        layer_relation=(np.arange(features) % 2).astype(np.int8),
        layer_expected=hold,
        layer_hold=hold,
        layer_lift=hold * 100,
        layer_rows=(hold * 100).astype(np.int32),
        layer_text_rows=(hold * 150).astype(np.int32),
        layer_verdict=each,
        hold=hold.sum(axis=1) * (rate > 0),
        fired_rows=np.where(rate > 0, 100, 0).astype(np.int32),
        verdict=verdict,
        verdict_together=verdict,
        tokens={t: (strings.raw[t], strings.display(t)) for t in np.unique(ids).tolist()},
        meta=meta,
    )


def _examples(found, words, rng):
    features = found.d_sae
    tokens = rng.integers(0, words, (features, SHOWN, WIDTH)).astype(np.int32)
    tokens[:, :, BEFORE] = found.layer_token_ids[:, :1]
    value = np.sort(rng.gamma(2, 2, (features, SHOWN)).astype(np.float32))[:, ::-1].copy()
    value[found.fire_rate == 0] = 0
    tokens[found.fire_rate == 0] = -1
    lit = rng.random(tokens.shape) < 0.1
    shade = np.where(lit, rng.random(tokens.shape) * value[:, :, None], 0)
    shade[:, :, BEFORE] = value
    quantile = np.tile(np.linspace(0.95, 0.05, SHOWN - TOP), (features, 1))
    ones = np.ones((features, TOP))
    return Examples(
        tokens,
        shade.astype(np.float16),
        value,
        np.concatenate([ones, quantile], axis=1).astype(np.float32),
    )


def heatmaps(reports):
    """The published sentences over made-up features, split at spaces."""
    return [_heatmap(case, reports, np.random.default_rng(3)) for case in PUBLISHED]


def _heatmap(case, reports, rng):
    tokens = tuple(f"␣{word}" for word in case.text.split())
    lines = {}
    for mode in ("centred", "raw"):
        lines[mode] = []
        for report in reports:
            feature = rng.integers(0, report.dictionary.d_sae, len(tokens)).astype(np.int32)
            feature[0] = -1
            value = np.where(feature < 0, 0, rng.gamma(2, 3, len(tokens))).astype(np.float32)
            first = report.dictionary.layer_token_ids[feature, 0].tolist()
            nearest = report.dictionary.token_ids[feature, 0].tolist()
            lines[mode].append(
                HeatmapLine(
                    Cells(feature, value, value),
                    names=[report.vocab.display(token) for token in first],
                    relations=["at"] * len(tokens),
                    embeddings=[report.vocab.display(token) for token in nearest],
                )
            )
    labels = tuple(report.label for report in reports)
    return Heatmap(case, "test/tiny", tokens, labels, lines)
