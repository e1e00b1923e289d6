"""A run's measures beside its curves, on the boards that it logs to."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vasae_jax.evaluation.evaluate import Evaluation
from vasae_jax.evaluation.metrics import numbers
from vasae_jax.evaluation.names import measure_names
from vasae_jax.evaluation.run import SPLIT, RunNames, evaluate_run, run_names
from vasae_jax.names.evidence import evidence
from vasae_jax.names.firings import ROWS, Watch
from vasae_jax.training.boards import COSINES, SHARES, Histogram, open_boards
from vasae_jax.training.log import print_once
from vasae_jax.training.run import Run, open_trained
from vasae_jax.training.run_dir import RunDir
from vasae_jax.utils.errors import UserError


def show(
    run: Run, folder: Path, measures: Mapping[str, Any], names: RunNames, watch: Watch
) -> None:
    """Add measures to the boards that the run's settings ask for, at its last step.

    Numbers are shown as ``SPLIT/NAME``. Over the firing features ``nearest_cosine``, the cosine of
    the nearest anchor, and ``hold``, the share that names hold, are histograms. A board that
    cannot be opened here is a line on stderr: what was measured is not lost for it.

    Args:
        run: the run, or an import, which has no boards.
        folder: its directory.
        measures: what ``vasae eval`` writes, with the key ``split``.
        names: of its features.
        watch: has watched the evaluation.
    """
    try:
        boards = open_boards(RunDir(folder), run.config)
    except UserError as error:
        print_once(f"the figures are not shown: {error}")
        return
    split = measures["split"]
    values = {f"{split}/{name}": value for name, value in numbers(measures).items()}
    spread = {f"{split}/{name}": one for name, one in _histograms(names, watch).items()}
    for board in boards:
        board.add(run.step, values, spread)
        board.close()


def _histograms(names: RunNames, watch: Watch) -> dict[str, Histogram]:
    """Of the firing features: the cosine of the nearest anchor, and what all names hold."""
    found = watch.firings()
    nearest, worth = names.kinds[0], evidence(found, names.layer, watch.watched())
    fires = np.bincount(found.feature, minlength=len(nearest.cosines)) > 0
    if not fires.any():
        return {}
    return {
        "nearest_cosine": Histogram(np.clip(nearest.cosines[fires], -1, 1), COSINES),
        "hold": Histogram(np.clip(worth.hold[fires], 0, 1), SHARES),
    }


# Every measure of a run that needs no language model, in one pass over a split.


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


# Measuring a run from Python, in one call.


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
