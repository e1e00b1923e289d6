"""From a finished run to its named dictionary."""

from typing import Any

from vasae_jax.anchor import anchor_name
from vasae_jax.config.overrides import to_dict
from vasae_jax.dictionary.artefact import Dictionary, make_dictionary
from vasae_jax.dictionary.meta import make_meta, provenance
from vasae_jax.evaluation.contexts import ROWS, Watch
from vasae_jax.evaluation.evaluate import Evaluation
from vasae_jax.evaluation.names.evidence import evidence
from vasae_jax.evaluation.run import SPLIT, RunNames, evaluate_run, run_names
from vasae_jax.training.trained import Run


def name_run(run: Run, names: RunNames, evaluation: Evaluation, watch: Watch) -> Dictionary:
    """The named dictionary of a run; ``watch`` has watched the evaluation."""
    config, split = run.config, evaluation.split
    meta = make_meta(
        anchor=anchor_name(center=config.anchor.center),
        fire_rate_over=f"{evaluation.unmasked.rows} unmasked rows of the {split} split",
        hold_over=f"{watch.rows} unmasked rows of the {split} split",
        provenance={**provenance(run.cache, config.data.layer), **_origin(run)},
        config=to_dict(config),
        metrics=evaluation.to_json(),
    )
    return make_dictionary(
        run.params,
        k=config.sae.k,
        pre_bias=config.sae.pre_bias,
        names=names.stated,
        raw_names=names.raw,
        layer_names=names.layer,
        worth=evidence(watch.firings(), names.layer, watch.watched()),
        vocab=run.cache.vocab(),
        fire_rate=evaluation.unmasked.fire_rate,
        meta=meta,
    )


def _origin(run: Run) -> dict[str, Any]:
    """Which training made the weights: the run's step, or another library."""
    return {"step": run.step} if run.imported is None else {"imported": dict(run.imported)}


def publish(run: Run) -> tuple[Dictionary, Evaluation, Watch]:
    """The named dictionary of a run, the evaluation that its figures come from, what fired."""
    names, watch = run_names(run), Watch(run.cache, SPLIT, ROWS)
    evaluation = evaluate_run(run, names, observe=watch)
    return name_run(run, names, evaluation, watch), evaluation, watch
