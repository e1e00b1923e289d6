"""The named dictionary of a finished run."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vasae_jax import __version__
from vasae_jax.activations import Activation, JumpReLU, TopK, activation_of
from vasae_jax.anchor.search import anchor_name
from vasae_jax.cache import Cache
from vasae_jax.cache.vocab import Vocab
from vasae_jax.config.overrides import to_dict
from vasae_jax.dictionary.claims import CLAIM, LAYER_CLAIM, NO_NAME
from vasae_jax.dictionary.dictionary import Dictionary as Dictionary
from vasae_jax.dictionary.files import FORMAT, VERSION
from vasae_jax.evaluation.evaluate import Evaluation
from vasae_jax.evaluation.run import BATCH, SPLIT, NamesBy, RunNames, evaluate_run, run_names
from vasae_jax.names.evidence import Evidence, evidence, tested_first
from vasae_jax.names.firings import FiringObserver
from vasae_jax.sae import encode
from vasae_jax.sites import Site
from vasae_jax.stream.source import rows_in_order
from vasae_jax.training.run import Run
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.public import public_settings

# One threshold in the place of TopK, for formats that have no k. BatchTopK (Bussmann, Leask and
# Nanda 2024) trains with the k n largest activations of n rows and then applies the least of them
# as a threshold. Here that number is read off training rows of a finished TopK SAE. It is another
# activation function: its figures are measured anew.

THRESHOLD_ROWS = 2**16
"""Training rows that the number is read off, at most."""
WIDER = 4
"""Of each row the ``WIDER`` k largest are looked at: more than k of it may be above the number."""


def with_one_threshold(run: Run) -> Run:
    """``run`` with a threshold that lets k features fire on a training row on average.

    Raises:
        UserError: a column of the cache is damaged.
    """
    threshold = one_threshold(run)
    d_sae = run.params["W_dec"].shape[0]
    params = {**run.params, "threshold": jnp.full((d_sae,), threshold, jnp.float32)}
    config = replace(run.config, sae=replace(run.config.sae, activation=JumpReLU.kind, k=d_sae))
    return replace(run, params=params, config=config)


def one_threshold(run: Run) -> float:
    """The largest number that k n activations of n unmasked training rows exceed, or 0."""
    data, sae = run.config.data, run.config.sae
    widest = TopK(min(WIDER * sae.k, run.params["W_dec"].shape[0]))
    program = jax.jit(encode, static_argnames=("activation", "pre_bias"))
    parts: list[np.ndarray] = []
    rows = 0
    for batch in rows_in_order(run.cache, data.input_site, "train", data.mask, batch=BATCH):
        x = jnp.asarray(batch.x, jnp.float32)
        values, _ = program(run.params, x, activation=widest, pre_bias=sae.pre_bias)
        parts.append(np.asarray(values)[batch.keep & (batch.docs >= 0)])
        rows += len(parts[-1])
        if rows >= THRESHOLD_ROWS:
            break
    values = np.concatenate(parts).reshape(-1)
    if np.count_nonzero(values) <= sae.k * rows:
        return 0.0
    place = len(values) - sae.k * rows - 1
    return float(np.partition(values, place)[place])


def make_dictionary(
    params: Mapping[str, np.ndarray | jax.Array],
    *,
    activation: Activation,
    pre_bias: float,
    names: RunNames,
    evidence: Evidence,
    vocab: Vocab,
    fire_rate: np.ndarray,
    meta: Mapping[str, Any],
) -> Dictionary:
    """Put an SAE and the names of its features together.

    Args:
        params: W_enc [d_sae, d_in] (feature-major, as in the trainer), b_enc, W_dec, b_dec, and
            those that the activation adds.
        activation: which features fire.
        pre_bias: share of b_dec taken from the input before encoding.
        names: of every feature.
        evidence: of each layer name, on held-out rows.
        vocab: the V token strings.
        fire_rate: [d_sae], share of rows on which each feature fires.
        meta: the content of meta.json, but for the activation and the digests.

    Raises:
        UserError: a name has no string in the vocabulary.
    """
    arrays = {name: np.asarray(value, np.float32) for name, value in params.items()}
    embedding = names.embedding
    layer, evidence = tested_first(names.layer, evidence)
    used = np.union1d(embedding.ids, layer.ids)
    return Dictionary(
        W_enc=np.ascontiguousarray(arrays["W_enc"].T),
        b_enc=arrays["b_enc"],
        W_dec=arrays["W_dec"],
        b_dec=arrays["b_dec"],
        activation=activation,
        pre_bias=pre_bias,
        token_ids=embedding.ids,
        cosines=embedding.cosines,
        raw_token_ids=names.raw.ids,
        raw_cosines=names.raw.cosines,
        fire_rate=np.asarray(fire_rate, np.float32),
        layer_token_ids=layer.ids,
        layer_relation=layer.relation,
        layer_expected=layer.expected,
        layer_hold=evidence.name_hold,
        layer_lift=evidence.name_lift,
        layer_rows=evidence.name_rows,
        layer_text_rows=evidence.name_text_rows,
        layer_verdict=evidence.name_verdict,
        hold=evidence.hold,
        fired_rows=evidence.fired,
        verdict=evidence.verdict,
        verdict_together=evidence.verdict_together,
        tokens=_strings(np.setdiff1d(used, [NO_NAME]).tolist(), vocab),
        meta=meta,
        extra_params={name: arrays[name] for name in activation.extra_params},
    )


def _strings(used: list[int], vocab: Vocab) -> dict[int, tuple[str, str]]:
    """Raw and display string of every token in ``used``, which is in order."""
    if used and used[-1] >= len(vocab):
        raise UserError(
            f"token {used[-1]} is a name and the vocabulary has {len(vocab)} strings; "
            "expected a string for every token"
        )
    return {token: (vocab.raw[token], vocab.display(token)) for token in used}


META_HEAD = {
    "format": FORMAT,
    "version": VERSION,
    "created_by": f"vasae_jax {__version__}",
    "claim": CLAIM,
    "layer_claim": LAYER_CLAIM,
}
"""How meta.json begins: what is the same for every dictionary."""


def provenance(cache: Cache, site: Site) -> dict[str, Any]:
    """Where a dictionary's rows come from: model, site, layer, text and the cache's digest."""
    manifest = cache.manifest
    return {
        "model": dict(vars(manifest.model)),
        "site": site.kind,
        "layer": site.layer,
        "bos": manifest.bos,
        "context_length": manifest.context_length,
        "text": dict(vars(manifest.text)),
        "cache_digest": cache.digest,
    }


def name_run(
    run: Run, names: RunNames, evaluation: Evaluation, observer: FiringObserver
) -> Dictionary:
    """The named dictionary of a run, whose evaluation ``observer`` has seen."""
    config, split = run.config, evaluation.split
    origin: dict[str, Any] = {"step": run.step}
    if run.imported is not None:
        origin = {"imported": dict(run.imported)}
    meta = {
        **META_HEAD,
        "anchor": anchor_name(center=config.anchor.center),
        "fire_rate_over": f"{evaluation.unmasked.rows} unmasked rows of the {split} split",
        "hold_over": f"{observer.rows} unmasked rows of the {split} split",
        "hold_documents": observer.documents,
        "names_by": names.by,
        "provenance": provenance(run.cache, config.data.input_site) | origin,
        "config": public_settings(to_dict(config)),
        "metrics": evaluation.to_json(),
    }
    return make_dictionary(
        run.params,
        activation=activation_of(config.sae),
        pre_bias=config.sae.pre_bias,
        names=names,
        evidence=evidence(observer.firings(), names.layer, observer.row_tokens()),
        vocab=run.cache.vocab(),
        fire_rate=evaluation.unmasked.fire_rate,
        meta=meta,
    )


def publish(run: Run, by: NamesBy = "evidence") -> tuple[Dictionary, Evaluation, FiringObserver]:
    """The named dictionary of a run, its evaluation, and what fired on the held-out rows.

    ``by`` says how layer names are chosen, see :func:`vasae_jax.evaluation.run.run_names`.
    """
    names, observer = run_names(run, by=by), FiringObserver(run.cache, SPLIT)
    evaluation = evaluate_run(run, names, observe=observer)
    return name_run(run, names, evaluation, observer), evaluation, observer
