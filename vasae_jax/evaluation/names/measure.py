"""Every measure of a run's names that is asked for."""

import numpy as np

from vasae_jax.anchor import anchor_name
from vasae_jax.evaluation.contexts import ROWS, Watch
from vasae_jax.evaluation.names.direct import direct_relation
from vasae_jax.evaluation.names.evidence import evidence
from vasae_jax.evaluation.names.figures import NameWorth
from vasae_jax.evaluation.names.holds import held
from vasae_jax.evaluation.names.inputs import input_relation
from vasae_jax.evaluation.names.outputs import output_relation
from vasae_jax.evaluation.names.stability import Side, Stability, stability
from vasae_jax.evaluation.patching.model import Model
from vasae_jax.evaluation.run import RunNames, evaluate_run, run_names
from vasae_jax.naming.layer import BEFORE
from vasae_jax.system.errors import UserError
from vasae_jax.training.trained import Run, open_trained


def measure_names(
    run: Run,
    names: RunNames,
    watch: Watch,
    split: str,
    *,
    model: Model | None = None,
    other: Run | None = None,
    against: str | None = None,
) -> NameWorth:
    """What the names of ``run`` are worth.

    Args:
        run: a trained run.
        names: the tokens nearest to its features.
        watch: has watched an evaluation of the run over ``split``.
        split: that split.
        model: the language model of its cache, for the output relation of names by embedding
            and of layer names that say *before*.
        other: a run over the same cache and layer, for stability.
        against: what to call it.

    Raises:
        UserError: the cache lacks the split, or a column is damaged.
    """
    found, stated = watch.firings(), names.stated.ids
    first = stated[:, 0]
    fired = np.bincount(found.feature, minlength=len(stated))
    cache, rows = run.cache, np.asarray(run.params["W_dec"], np.float64)
    worth = evidence(found, names.layer, watch.watched())
    direct = (run.params["W_dec"], first, fired, cache.final_norm(), cache.unembedding())
    output = output_before = None
    if model is not None:
        output = output_relation(run, model, split, found, first)
        later = found.of(names.layer.relation == BEFORE)
        output_before = output_relation(run, model, split, later, names.layer.ids[:, 0])
    return NameWorth(
        anchor=anchor_name(center=run.config.anchor.center),
        rows=watch.rows,
        layer=held(found, names.layer, worth, np.linalg.norm(rows, axis=1)),
        inputs=input_relation(found, stated),
        direct=direct_relation(*direct),
        output=output,
        output_before=output_before,
        stability=None if other is None else _stability(run, first, fired > 0, other, split),
        against=against,
    )


def open_other(path: str, run: Run) -> Run:
    """Another run to compare the names of ``run`` with, over the same cache.

    Raises:
        UserError: no such run, or one of another width, layer or anchor.
    """
    other = open_trained(path, run.cache.url, run.mesh)
    for what, found, expected in (
        ("layer", other.config.data.layer, run.config.data.layer),
        (
            "names by",
            anchor_name(center=other.config.anchor.center),
            anchor_name(center=run.config.anchor.center),
        ),
    ):
        if found != expected:
            raise UserError(
                f"run {path} has {what} {found}; expected {expected} as the run that it is "
                "compared with"
            )
    return other


def _stability(run: Run, names: np.ndarray, fires: np.ndarray, other: Run, split: str) -> Stability:
    """Stability against ``other``, whose firing features are counted on the same rows."""
    theirs, watch = run_names(other), Watch(other.cache, split, ROWS)
    evaluate_run(other, theirs, split, watch)
    first = theirs.stated.ids[:, 0]
    found = np.bincount(watch.firings().feature, minlength=len(first)) > 0
    return stability(
        Side(W_dec=run.params["W_dec"], names=names, fires=fires),
        Side(W_dec=other.params["W_dec"], names=first, fires=found),
    )
