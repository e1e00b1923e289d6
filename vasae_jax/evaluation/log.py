"""The evaluation of a run without its language model, and its log on the run's boards."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vasae_jax.evaluation.evaluate import Evaluation
from vasae_jax.evaluation.metrics import flatten_numbers
from vasae_jax.evaluation.names import measure_names
from vasae_jax.evaluation.run import SPLIT, RunNames, evaluate_run, run_names
from vasae_jax.names.evidence import evidence
from vasae_jax.names.firings import FiringObserver
from vasae_jax.training.boards import COSINES, SHARES, Histogram, open_boards
from vasae_jax.training.log import print_once
from vasae_jax.training.run import Run, open_trained
from vasae_jax.training.run_dir import RunDir
from vasae_jax.utils.errors import UserError


def evaluate(
    run: Run | str | os.PathLike[str], split: str = SPLIT, cache: str | None = None
) -> Evaluation:
    """Measure a run over a split of its cache; nothing is written.

    Args:
        run: a run's directory, or the run as :func:`open_trained` opens it.
        split: ``heldout`` or ``train``.
        cache: another cache of the same model, for a run that is not open yet.

    Returns:
        Metrics over unmasked and over all rows; ``print(evaluation.table())`` shows them, and
        docs/evaluation.md defines them.

    >>> evaluation = vj.evaluate(config.run.out)
    >>> evaluation.unmasked.rows < evaluation.all_rows.rows
    True

    Raises:
        UserError: no run, no checkpoint, no cache, or a split that has no rows.
    """
    opened = run if isinstance(run, Run) else open_trained(os.fspath(run), cache)
    return evaluate_run(opened, run_names(opened, by="weights"), split)


def evaluate_and_log(run: Run, folder: Path, split: str = SPLIT) -> dict[str, Any]:
    """What ``vasae eval`` writes of the run in ``folder`` over ``split``, as a JSON value.

    The metrics are logged on the boards of the run too.
    """
    names, observer = run_names(run), FiringObserver(run.cache, split)
    evaluation = evaluate_run(run, names, split, observer)
    name_metrics = measure_names(run, names, observer, split)
    result = {**evaluation.to_json(), "names": name_metrics.to_json()}
    log_evaluation(run, folder, result, names, observer)
    return result


def log_evaluation(
    run: Run, folder: Path, result: Mapping[str, Any], names: RunNames, observer: FiringObserver
) -> None:
    """Add an evaluation to the boards that the run's settings ask for, at its last step.

    Numbers are logged as ``SPLIT/NAME``. Over the firing features ``nearest_cosine``, the cosine of
    the nearest anchor, and ``hold``, the share that names hold, are histograms. A board that
    cannot be opened here is a line on stderr: what was measured is not lost for it.

    Args:
        run: the run, or an import, which has no boards.
        folder: its directory.
        result: what ``vasae eval`` writes, with the key ``split``.
        names: of its features.
        observer: has seen the evaluation.
    """
    try:
        boards = open_boards(RunDir(folder), run.config)
    except UserError as error:
        print_once(f"the figures are not shown: {error}")
        return
    split = result["split"]
    values = {f"{split}/{name}": value for name, value in flatten_numbers(result).items()}
    histograms = {f"{split}/{name}": each for name, each in _histograms(names, observer).items()}
    for board in boards:
        board.add(run.step, values, histograms)
        board.close()


def _histograms(names: RunNames, observer: FiringObserver) -> dict[str, Histogram]:
    """Of the firing features: the cosine of the nearest anchor, and what all names hold."""
    firings, cosines = observer.firings(), names.nearest[0].cosines
    hold = evidence(firings, names.layer, observer.row_tokens()).hold
    fires = np.bincount(firings.feature, minlength=len(cosines)) > 0
    if not fires.any():
        return {}
    return {
        "nearest_cosine": Histogram(np.clip(cosines[fires], -1, 1), COSINES),
        "hold": Histogram(np.clip(hold[fires], 0, 1), SHARES),
    }
