"""Packs: runs of equal shape that train in one program, on the same rows of one stream."""

from vasae_jax.training.pack.checks import FREE, check_pack
from vasae_jax.training.pack.state import Layout, PackState
from vasae_jax.training.pack.step import Knobs, make_pack_step, make_round

__all__ = [
    "FREE",
    "Knobs",
    "Layout",
    "PackState",
    "check_pack",
    "make_pack_step",
    "make_round",
]
