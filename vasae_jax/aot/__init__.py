"""Compile programs ahead of time for TPU slices that are not there, and estimate their cost."""

from vasae_jax.aot.chips import Slice as Slice
from vasae_jax.aot.chips import open_slice as open_slice
from vasae_jax.aot.cost import Cost as Cost
from vasae_jax.aot.cost import cost_of as cost_of
from vasae_jax.aot.programs import PROGRAMS as PROGRAMS
from vasae_jax.aot.programs import TooLarge as TooLarge
from vasae_jax.aot.programs import compile_program as compile_program
from vasae_jax.training.shapes import Shapes as Shapes
