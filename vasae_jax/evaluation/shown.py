"""A run's measures beside its curves, on the boards that it logs to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vasae_jax.evaluation.contexts import Watch
from vasae_jax.evaluation.names.evidence import evidence
from vasae_jax.evaluation.numbers import numbers
from vasae_jax.evaluation.run import RunNames
from vasae_jax.system.errors import UserError
from vasae_jax.training.boards import COSINES, SHARES, Histogram, open_boards
from vasae_jax.training.log import say
from vasae_jax.training.rundir import RunDir
from vasae_jax.training.trained import Run


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
        say(f"the figures are not shown: {error}")
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
