"""TensorBoard's page of a grid: a row a run, with what varies and what was measured."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from vasae_jax.config.overrides import flatten
from vasae_jax.sweep.points import Member, varied
from vasae_jax.sweep.results import Row, measured
from vasae_jax.sweep.standing import DONE
from vasae_jax.training.boards import summary_writer

BOARD = "tensorboard"


def write_board(out: Path, members: Sequence[Member], rows: Sequence[Row]) -> None:
    """Write ``out``/tensorboard anew, for the tab HParams: a line for each run that is done.

    Raises:
        UserError: tensorboardX is not installed.
    """
    keys = varied([member.config for member in members])
    shutil.rmtree(out / BOARD, ignore_errors=True)
    for member, row in zip(members, rows, strict=True):
        if row["status"] == DONE:
            flat = flatten(member.config)
            settings = {key: flat[key] for key in keys}
            with summary_writer(out / BOARD / member.id) as writer:
                writer.add_hparams(settings, measured(member), name=".")
