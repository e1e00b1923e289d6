"""Sweeps: a grid of runs from one file, trained as packs, and one table of all.

docs/sweeps.md says how a grid becomes packs and jobs.
"""

from vasae_jax.sweep import grid
from vasae_jax.sweep.points import Sweep, load_sweep

__all__ = ["Sweep", "grid", "load_sweep"]
