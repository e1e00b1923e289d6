"""What a sweep file defines."""

from dataclasses import dataclass, field

from vasae_jax.config import Config
from vasae_jax.config.overrides import variable_of
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
    found = variable_of(path, "sweep", "sweep = Sweep(...)")
    if not isinstance(found, Sweep):
        raise UserError(
            f"sweep {path} has sweep = {type(found).__name__}; expected a vasae_jax.sweep.Sweep"
        )
    return found
