"""Packs: runs of equal shape that train in one program, on the same rows of one stream."""

from vasae_jax.pack.checks import FREE, check_pack
from vasae_jax.pack.state import Layout
from vasae_jax.pack.step import Knobs, knobs_of, make_pack_step

__all__ = ["FREE", "Knobs", "Layout", "check_pack", "knobs_of", "make_pack_step"]
