"""Sweeps: a grid of runs from one file, trained as packs, and one table of all.

docs/sweeps.md says how a grid becomes packs and jobs.
"""

from vasae_jax.sweep import grid
from vasae_jax.sweep.points import Sweep, load_sweep
from vasae_jax.training.status import Halving, Rules

__all__ = ["Halving", "Rules", "Sweep", "grid", "load_sweep"]
