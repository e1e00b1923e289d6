"""Programs compiled ahead of time for TPU slices that are not there, and what they would cost."""

from vasae_jax.aot.chips import Slice, open_slice
from vasae_jax.aot.cost import Cost, cost_of
from vasae_jax.aot.programs import PROGRAMS, TooLarge, compile_program
from vasae_jax.training.shapes import Shapes

__all__ = [
    "PROGRAMS",
    "Cost",
    "Shapes",
    "Slice",
    "TooLarge",
    "compile_program",
    "cost_of",
    "open_slice",
]
