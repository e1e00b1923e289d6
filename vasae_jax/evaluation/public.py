"""Measuring a run from Python, in one call."""

import os

from vasae_jax.evaluation.evaluate import Evaluation
from vasae_jax.evaluation.run import SPLIT, evaluate_run, run_names
from vasae_jax.training.trained import Run, open_trained


def evaluate(
    run: Run | str | os.PathLike[str], split: str = SPLIT, cache: str | None = None
) -> Evaluation:
    """Measure a run over a split of its cache; nothing is written.

    Args:
        run: a run's directory, or the run as :func:`open_trained` opens it.
        split: ``heldout`` or ``train``.
        cache: another cache of the same model, for a run that is not open yet.

    Returns:
        Figures over unmasked and over all rows; ``print(found.table())`` shows them, and
        docs/evaluation.md defines them.

    >>> found = vj.evaluate(config.run.out)
    >>> found.unmasked.rows < found.all_rows.rows
    True

    Raises:
        UserError: no run, no checkpoint, no cache, or a split that has no rows.
    """
    opened = run if isinstance(run, Run) else open_trained(os.fspath(run), cache)
    return evaluate_run(opened, run_names(opened), split)
