"""Sweeps: a grid of runs from one file, trained as packs, and one table of all.

docs/sweeps.md says how a grid becomes packs and jobs.
"""

from vasae_jax.sweep import grid as grid
from vasae_jax.sweep.points import Sweep as Sweep
from vasae_jax.sweep.points import load_sweep as load_sweep
