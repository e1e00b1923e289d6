"""From a finished run to what people use: its evaluation and its named dictionary."""

from dataclasses import dataclass
from pathlib import Path

from jax.sharding import Mesh

from vasae_jax.anchor import anchor_matrix, anchor_name
from vasae_jax.cache import Cache
from vasae_jax.checkpoint import load_params
from vasae_jax.config import Config
from vasae_jax.configfile import to_dict
from vasae_jax.dictionary import Dictionary, make_dictionary, make_meta, provenance
from vasae_jax.errors import UserError
from vasae_jax.evaluate import Evaluation, Observer, evaluate
from vasae_jax.mesh import DATA, MODEL
from vasae_jax.metrics import Nearest
from vasae_jax.naming import Names, nearest_tokens
from vasae_jax.sae import Params
from vasae_jax.stream import rows_in_order
from vasae_jax.train.rundir import read_run

NAMES = 10
"""Tokens kept per feature."""
SPLIT = "heldout"
BATCH = 4096
"""Rows measured at once, or a few more so that devices share them evenly; the figures do not
depend on it."""


@dataclass(frozen=True)
class Run:
    """A trained run and the cache that it belongs to."""

    config: Config
    step: int
    """The step of its last checkpoint."""
    params: Params
    cache: Cache
    mesh: Mesh | None = None
    """Devices that its names and measures are worked out on; None: the first one."""


@dataclass(frozen=True)
class RunNames:
    """The tokens nearest to every feature of a run."""

    stated: Names
    """By the anchors that it was trained towards: its names."""
    raw: Names
    """By the raw input embeddings, so that published figures stay comparable."""


def open_trained(run: str, cache_url: str | None = None, mesh: Mesh | None = None) -> Run:
    """The last checkpoint of ``run``, with the cache of its config or the one given.

    Raises:
        UserError: no run, no checkpoint, no cache, a cache of another width or vocabulary, or
            features that ``mesh`` cannot split evenly.
    """
    config, digest = read_run(Path(run))
    cache = Cache.open(cache_url or config.data.cache)
    step, params = load_params(run)
    d_sae, width = params["W_dec"].shape
    if cache.manifest.d_model != width:
        raise UserError(
            f"cache {cache.url} has rows of {cache.manifest.d_model} numbers; "
            f"expected {width} as run {run} was trained on"
        )
    if cache_url is None and cache.digest != digest:
        raise UserError(
            f"cache {cache.url} has changed since run {run} was trained on it; "
            "expected the same one, or another named with --cache"
        )
    if mesh is not None and d_sae % mesh.shape[MODEL]:
        raise UserError(
            f"the {d_sae} features of run {run} cannot be split over {mesh.shape[MODEL]} devices; "
            "expected --mesh.model to divide them"
        )
    return Run(config, step, params, cache, mesh)


def run_names(run: Run) -> RunNames:
    """Search the whole vocabulary for every feature's nearest tokens."""
    embedding = run.cache.embedding()
    rows = run.params["W_dec"]
    raw = nearest_tokens(rows, embedding, NAMES, mesh=run.mesh)
    if not run.config.anchor.center:
        return RunNames(raw, raw)
    centred = anchor_matrix(embedding, True)
    return RunNames(nearest_tokens(rows, centred, NAMES, mesh=run.mesh), raw)


def evaluate_run(
    run: Run, names: RunNames, split: str = SPLIT, observe: Observer | None = None
) -> Evaluation:
    """Every measure of :mod:`vasae_jax.metrics` over ``split``; ``observe`` is told what fires."""
    config = run.config
    stated = _nearest(anchor_name(config.anchor.center), names.stated, run.cache)
    kinds: tuple[Nearest, ...] = (stated,)
    if config.anchor.center:
        kinds += (_nearest(anchor_name(False), names.raw, run.cache),)
    data = config.data
    parts = run.mesh.shape[DATA] if run.mesh else 1
    size = -(-BATCH // parts) * parts
    batches = rows_in_order(run.cache, data.layer, split, size, data.skip_positions, data.max_norm)
    sae = config.sae
    return evaluate(run.params, batches, sae.k, sae.pre_bias, kinds, split, observe, run.mesh)


def name_run(run: Run, names: RunNames, evaluation: Evaluation) -> Dictionary:
    """The named dictionary of a run."""
    config = run.config
    meta = make_meta(
        anchor=anchor_name(config.anchor.center),
        fire_rate_over=f"{evaluation.unmasked.rows} unmasked rows of the {evaluation.split} split",
        provenance={**provenance(run.cache, config.data.layer), "step": run.step},
        config=to_dict(config),
        metrics=evaluation.to_json(),
    )
    return make_dictionary(
        run.params,
        k=config.sae.k,
        pre_bias=config.sae.pre_bias,
        names=names.stated,
        raw_names=names.raw,
        vocab=run.cache.vocab(),
        fire_rate=evaluation.unmasked.fire_rate,
        meta=meta,
    )


def publish(run: Run) -> tuple[Dictionary, Evaluation]:
    """The named dictionary of a run and the evaluation that its figures come from."""
    names = run_names(run)
    evaluation = evaluate_run(run, names)
    return name_run(run, names, evaluation), evaluation


def _nearest(anchor: str, names: Names, cache: Cache) -> Nearest:
    return Nearest(anchor, names.ids[:, 0], names.cosines[:, 0], cache.manifest.vocab_size)
