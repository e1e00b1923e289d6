"""What a sweep file defines."""

import runpy
from dataclasses import dataclass, field
from pathlib import Path

from vasae_jax.config import Config
from vasae_jax.sweep.grid import Grid
from vasae_jax.system.errors import UserError
from vasae_jax.training.pack.rules import Rules


@dataclass(frozen=True)
class Sweep:
    """A grid of runs."""

    base: Config
    """What all points have in common."""
    points: Grid
    """What each sets instead; see :mod:`vasae_jax.sweep.grid`."""
    out: str
    """Directory of the sweep: every run under ``runs/ID``, and the table of all."""
    rules: Rules = field(default_factory=Rules)
    """When a run ends before its last step."""


def load_sweep(path: str) -> Sweep:
    """The ``sweep`` that a Python file defines.

    Raises:
        UserError: no such file, it fails to run, or it defines no ``sweep = Sweep(...)``.
    """
    if not Path(path).is_file():
        raise UserError(
            f"sweep {path} is not there; expected a Python file with sweep = Sweep(...)"
        )
    try:
        found = runpy.run_path(path).get("sweep")
    except UserError as error:
        raise UserError(f"sweep {path}: {error}") from error
    except Exception as error:
        raise UserError(f"sweep {path} fails: {type(error).__name__}: {error}") from error
    if not isinstance(found, Sweep):
        raise UserError(
            f"sweep {path} has sweep = {type(found).__name__}; expected a vasae_jax.sweep.Sweep"
        )
    return found
