"""Every measure of a run that needs no language model, in one pass over a split."""

from typing import Any

from vasae_jax.evaluation.contexts import ROWS, Watch
from vasae_jax.evaluation.names.measure import measure_names
from vasae_jax.evaluation.run import SPLIT, evaluate_run, run_names
from vasae_jax.training.trained import Run


def measures(run: Run, split: str = SPLIT) -> dict[str, Any]:
    """What ``vasae eval`` writes of a run over ``split``, as a JSON value."""
    names, watch = run_names(run), Watch(run.cache, split, ROWS)
    evaluation = evaluate_run(run, names, split, watch)
    worth = measure_names(run, names, watch, split)
    return {**evaluation.to_json(), "names": worth.to_json()}
