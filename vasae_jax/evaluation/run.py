"""The names of a trained run's features, and the metrics of the run over a split."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import jax

from vasae_jax.activations import activation_of
from vasae_jax.anchor.layer_anchors import layer_anchors
from vasae_jax.anchor.search import anchor_matrix, anchor_name
from vasae_jax.anchor.token_means import LayerAnchors, TokenMeans
from vasae_jax.cache import Cache
from vasae_jax.config import MeshConfig
from vasae_jax.distributed.mesh import DATA, make_mesh
from vasae_jax.evaluation.bootstrap import DocumentSums
from vasae_jax.evaluation.evaluate import Evaluation, Observer, evaluate_rows
from vasae_jax.evaluation.metrics import NearestAnchors, TokenTable
from vasae_jax.evaluation.training_rows import count_training_rows
from vasae_jax.names.by_embedding import Names, nearest_tokens
from vasae_jax.names.by_evidence import names_by_evidence
from vasae_jax.names.by_layer import LayerNames, layer_names
from vasae_jax.names.counts import FiringCounts
from vasae_jax.stream.source import rows_in_order
from vasae_jax.training.autotune import autotuned
from vasae_jax.training.run import Run
from vasae_jax.training.state import layer_targets, pulled_rows
from vasae_jax.utils.errors import UserError

NAMES = 10
"""Tokens kept per feature, at most."""
NamesBy = Literal["evidence", "weights"]
NAMES_BY: tuple[NamesBy, ...] = get_args(NamesBy)
"""How layer names are chosen: by where features fire on training rows, or by weights alone."""
SPLIT = "heldout"
BATCH = 4096
"""Rows measured at once, or a few more so that devices share them evenly; the figures do not
depend on it."""


@dataclass(frozen=True)
class RunNames:
    """The names of every feature of a run."""

    embedding: Names
    """By its embedding anchors: the input embeddings, less their mean where the run says so."""
    raw: Names
    """By the raw input embeddings, so that published figures stay comparable."""
    layer: LayerNames
    """By the layer: at which tokens, or before which, a feature should fire."""
    by: str
    """What layer names were chosen by, in words."""
    nearest: tuple[NearestAnchors, ...]
    """The nearest anchor of each kind that alignment is reported to, the run's own first."""
    token_means: TokenMeans | None = None
    """The layer's mean row at each token; None if names come from another cache's anchors."""
    counts: FiringCounts | None = None
    """Of the training rows that layer names were chosen on; None if by weights."""


def run_names(run: Run, anchors_of: Cache | None = None, by: NamesBy = "evidence") -> RunNames:
    """Name every feature, by the vocabulary's embeddings and by the layer.

    Layer names come from the anchors and the training rows of the run's cache, or of another one of
    the same model, as :func:`open_anchors_of` gives it. Anchors are made on first use.

    Args:
        run: a trained run.
        anchors_of: the other cache.
        by: ``evidence`` encodes a sample of training rows, and takes as many names as pay;
            ``weights`` runs no row through the SAE, and takes NAMES tokens.
    """
    config, rows, cache = run.config, run.params["W_dec"], run.cache
    embedding, size = cache.embedding(), cache.manifest.vocab_size
    names = raw = nearest_tokens(rows, embedding, NAMES, mesh=run.mesh)
    nearest = [_nearest(anchor_name(center=False), raw, size)]
    if config.anchor.center:
        centered = anchor_matrix(embedding, center=True)
        names = nearest_tokens(rows, centered, NAMES, mesh=run.mesh)
        nearest.insert(0, _nearest(anchor_name(center=True), names, size))
    data, source = config.data, anchors_of or cache
    anchors = layer_anchors(source, data.input_site, data.skip_positions, data.max_norm)
    if config.anchor.kind != "embedding":
        nearest.insert(0, _nearest_of_layer(run, anchors))
    layer, words, counts = _layer_names(run, source, anchors, by)
    token_means = anchors.at if anchors_of is None else None
    return RunNames(names, raw, layer, words, tuple(nearest), token_means, counts)


def _layer_names(
    run: Run, source: Cache, anchors: LayerAnchors, by: NamesBy
) -> tuple[LayerNames, str, FiringCounts | None]:
    """Layer names, what they were chosen by, and counts of the rows that were read for them."""
    sae = run.config.sae
    if by == "weights":
        names = layer_names(run.params, activation_of(sae), sae.pre_bias, anchors, NAMES)
        return names, "weights alone", None
    counts = count_training_rows(run, source, screened=screened(run))
    words = f"evidence on {counts.rows} unmasked training rows"
    return names_by_evidence(counts, NAMES), words, counts


def open_anchors_of(url: str, run: Run) -> Cache:
    """The cache at ``url``, whose layer anchors are to name the features of ``run``.

    Raises:
        UserError: no such cache, or one of another model's.
    """
    cache = Cache.open(url)
    theirs, ours = cache.manifest, run.cache.manifest
    for what, actual, expected in (
        ("rows of width", theirs.d_model, ours.d_model),
        ("a vocabulary of", theirs.vocab_size, ours.vocab_size),
        ("embeddings of digest", theirs.digests["embedding"], ours.digests["embedding"]),
        ("token strings of digest", theirs.digests["tokens"], ours.digests["tokens"]),
    ):
        if actual != expected:
            raise UserError(
                f"cache {url} has {what} {actual}; expected {expected} as {run.cache.url} has"
            )
    return cache


def _nearest_of_layer(run: Run, anchors: LayerAnchors) -> NearestAnchors:
    """The layer anchor that each feature is pulled towards."""
    settings = run.config.anchor
    targets = layer_targets(anchors, settings)
    names = nearest_tokens(
        pulled_rows(run.params, run.config.anchor), targets.rows, 1, mesh=run.mesh
    )
    title = f"layer anchors ({settings.kind}, {settings.pulls})"
    return _nearest(title, names, len(targets.rows))


def _nearest(anchor: str, names: Names, size: int) -> NearestAnchors:
    return NearestAnchors(anchor, names.ids[:, 0], names.cosines[:, 0], size)


def evaluate_run(
    run: Run,
    names: RunNames,
    split: str = SPLIT,
    observe: Observer | None = None,
    documents: DocumentSums | None = None,
) -> Evaluation:
    """The metrics of a run over ``split``.

    Args:
        run: a trained run.
        names: of its features.
        split: of its cache.
        observe: called with what fires on each batch.
        documents: to which sums over the unmasked rows are added, for intervals.
    """
    data = run.config.data
    parts = run.mesh.shape[DATA] if run.mesh else 1
    size = -(-BATCH // parts) * parts
    batches = rows_in_order(run.cache, data.input_site, split, data.mask, batch=size)
    return evaluate_rows(
        run.params,
        run.config.sae,
        batches,
        names.nearest,
        split=split,
        observe=observe,
        token_means=_token_table(run.cache, split, names.token_means),
        documents=documents,
        mesh=run.mesh,
        screened=screened(run),
    )


def _token_table(cache: Cache, split: str, means: TokenMeans | None) -> TokenTable | None:
    """The mean row of each row's token in a split."""
    if means is None:
        return None
    token = cache.column("tokens", split).read(0, cache.rows(split))
    return TokenTable(token, means.rows, means.mean)


def screened(run: Run) -> bool:
    """Whether this machine finds what fires faster through a bfloat16 product, which is measured.

    The same features fire either way, with the same activations but for rounding. The choice in the
    run's settings was made on the machine that trained it.
    """
    if jax.process_count() > 1 or run.config.sae.activation != "topk":
        return False
    mesh = run.mesh or make_mesh(MeshConfig(data=1, model=1))
    automatic = replace(run.config, sae=replace(run.config.sae, screen="auto"))
    d_sae, d_in = run.params["W_enc"].shape
    return autotuned(automatic, mesh, (d_sae, d_in)).sae.screen == "on"
