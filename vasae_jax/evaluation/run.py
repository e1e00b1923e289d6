"""The names and the measures of a trained run."""

from dataclasses import dataclass

from vasae_jax.anchor import anchor_matrix, anchor_name
from vasae_jax.cache import Cache
from vasae_jax.devices.mesh import DATA
from vasae_jax.evaluation.evaluate import Evaluation, Observer, evaluate
from vasae_jax.evaluation.metrics import Nearest
from vasae_jax.naming.nearest import Names, nearest_tokens
from vasae_jax.stream import rows_in_order
from vasae_jax.training.trained import Run

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
    """By the anchors that it was trained towards: its names."""
    raw: Names
    """By the raw input embeddings, so that published figures stay comparable."""


def run_names(run: Run) -> RunNames:
    """Search the whole vocabulary for every feature's nearest tokens."""
    embedding = run.cache.embedding()
    rows = run.params["W_dec"]
    raw = nearest_tokens(rows, embedding, NAMES, mesh=run.mesh)
    if not run.config.anchor.center:
        return RunNames(raw, raw)
    centred = anchor_matrix(embedding, center=True)
    return RunNames(nearest_tokens(rows, centred, NAMES, mesh=run.mesh), raw)


def evaluate_run(
    run: Run, names: RunNames, split: str = SPLIT, observe: Observer | None = None
) -> Evaluation:
    """Every measure of a run over ``split``; ``observe`` is told what fires."""
    config = run.config
    stated = _nearest(anchor_name(center=config.anchor.center), names.stated, run.cache)
    kinds: tuple[Nearest, ...] = (stated,)
    if config.anchor.center:
        kinds += (_nearest(anchor_name(center=False), names.raw, run.cache),)
    data = config.data
    parts = run.mesh.shape[DATA] if run.mesh else 1
    size = -(-BATCH // parts) * parts
    batches = rows_in_order(run.cache, data.layer, split, data.mask, batch=size)
    return evaluate(
        run.params, config.sae, batches, kinds, split=split, observe=observe, mesh=run.mesh
    )


def _nearest(anchor: str, names: Names, cache: Cache) -> Nearest:
    return Nearest(anchor, names.ids[:, 0], names.cosines[:, 0], cache.manifest.vocab_size)
