"""The names and the measures of a trained run."""

from dataclasses import dataclass, replace

import jax

from vasae_jax.anchor import anchor_matrix, anchor_name
from vasae_jax.anchor.layer_anchors import layer_anchors
from vasae_jax.anchor.token_means import LayerAnchors
from vasae_jax.cache import Cache
from vasae_jax.config import MeshConfig
from vasae_jax.distributed.mesh import DATA, make_mesh
from vasae_jax.evaluation.evaluate import Evaluation, Observer, evaluate_rows
from vasae_jax.evaluation.metrics import Nearest
from vasae_jax.names.by_embedding import Names, nearest_tokens
from vasae_jax.names.by_layer import LayerNames, layer_names
from vasae_jax.stream import rows_in_order
from vasae_jax.training.autotune import measured
from vasae_jax.training.hparams import pulled
from vasae_jax.training.run import Run
from vasae_jax.training.state import pulled_to
from vasae_jax.utils.errors import UserError

NAMES = 10
"""Tokens kept per feature."""
SPLIT = "heldout"
BATCH = 4096
"""Rows measured at once, or a few more so that devices share them evenly; the figures do not
depend on it."""


@dataclass(frozen=True)
class RunNames:
    """The tokens nearest to every feature of a run."""

    stated: Names
    """By its embedding anchors: the input embeddings, less their mean where the run says so."""
    raw: Names
    """By the raw input embeddings, so that published figures stay comparable."""
    layer: LayerNames
    """By the layer's own anchors: at which tokens, or before which, a feature should fire."""
    kinds: tuple[Nearest, ...]
    """The nearest anchor of each kind that alignment is reported to, the run's own first."""


def run_names(run: Run, anchors_of: Cache | None = None) -> RunNames:
    """Name every feature, by the vocabulary's embeddings and by the layer's anchors.

    The layer's anchors are those of the run's cache, or of another one of the same model, as
    :func:`open_anchors_of` gives it. They are made on first use.
    """
    config, rows, cache = run.config, run.params["W_dec"], run.cache
    embedding, size = cache.embedding(), cache.manifest.vocab_size
    stated = raw = nearest_tokens(rows, embedding, NAMES, mesh=run.mesh)
    kinds = [_nearest(anchor_name(center=False), raw, size)]
    if config.anchor.center:
        centred = anchor_matrix(embedding, center=True)
        stated = nearest_tokens(rows, centred, NAMES, mesh=run.mesh)
        kinds.insert(0, _nearest(anchor_name(center=True), stated, size))
    data = config.data
    anchors = layer_anchors(anchors_of or cache, data.layer, data.skip_positions, data.max_norm)
    if config.anchor.kind != "embedding":
        kinds.insert(0, _nearest_of_layer(run, anchors))
    named = layer_names(run.params, config.sae.k, config.sae.pre_bias, anchors, NAMES)
    return RunNames(stated, raw, named, tuple(kinds))


def open_anchors_of(url: str, run: Run) -> Cache:
    """The cache at ``url``, whose layer anchors are to name the features of ``run``.

    Raises:
        UserError: no such cache, or one of another model's.
    """
    cache, own = Cache.open(url), run.cache.manifest
    for what, found, expected in (
        ("rows of width", cache.manifest.d_model, own.d_model),
        ("a vocabulary of", cache.manifest.vocab_size, own.vocab_size),
        ("embeddings of digest", cache.manifest.digests["embedding"], own.digests["embedding"]),
        ("token strings of digest", cache.manifest.digests["tokens"], own.digests["tokens"]),
    ):
        if found != expected:
            raise UserError(
                f"cache {url} has {what} {found}; expected {expected} as {run.cache.url} has"
            )
    return cache


def _nearest_of_layer(run: Run, anchors: LayerAnchors) -> Nearest:
    """The layer anchor that each feature is pulled towards."""
    own = run.config.anchor
    targets = pulled_to(anchors, own)
    rows = pulled(run.params, run.config)
    found = nearest_tokens(rows, targets.rows, 1, mesh=run.mesh)
    return _nearest(f"layer anchors ({own.kind}, {own.pulls})", found, len(targets.rows))


def evaluate_run(
    run: Run, names: RunNames, split: str = SPLIT, observe: Observer | None = None
) -> Evaluation:
    """Every measure of a run over ``split``; ``observe`` is told what fires."""
    data = run.config.data
    parts = run.mesh.shape[DATA] if run.mesh else 1
    size = -(-BATCH // parts) * parts
    batches = rows_in_order(run.cache, data.layer, split, data.mask, batch=size)
    return evaluate_rows(
        run.params,
        run.config.sae,
        batches,
        names.kinds,
        split=split,
        observe=observe,
        mesh=run.mesh,
        screened=screened(run),
    )


def screened(run: Run) -> bool:
    """Whether this machine finds what fires faster through a bfloat16 product; asked by measuring.

    The features are the same either way, and their activations but for rounding. What the run was
    trained with was decided on the machine that trained it.
    """
    if jax.process_count() > 1 or "threshold" in run.params:
        return False
    mesh = run.mesh or make_mesh(MeshConfig(data=1, model=1))
    asked = replace(run.config, sae=replace(run.config.sae, screen="auto"))
    d_sae, d_in = run.params["W_enc"].shape
    return measured(asked, mesh, (d_sae, d_in)).sae.screen == "on"


def _nearest(anchor: str, names: Names, size: int) -> Nearest:
    return Nearest(anchor, names.ids[:, 0], names.cosines[:, 0], size)
