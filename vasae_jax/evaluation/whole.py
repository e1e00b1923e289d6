"""Every measure of a run that needs no language model, in one pass over a split."""

from pathlib import Path
from typing import Any

from vasae_jax.evaluation.contexts import ROWS, Watch
from vasae_jax.evaluation.names.measure import measure_names
from vasae_jax.evaluation.run import SPLIT, evaluate_run, run_names
from vasae_jax.evaluation.shown import show
from vasae_jax.training.trained import Run


def measures(run: Run, folder: Path, split: str = SPLIT) -> dict[str, Any]:
    """What ``vasae eval`` writes of the run in ``folder`` over ``split``, as a JSON value.

    It is shown on the boards of the run too.
    """
    names, watch = run_names(run), Watch(run.cache, split, ROWS)
    evaluation = evaluate_run(run, names, split, watch)
    worth = measure_names(run, names, watch, split)
    found = {**evaluation.to_json(), "names": worth.to_json()}
    show(run, folder, found, names, watch)
    return found
