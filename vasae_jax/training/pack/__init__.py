"""Packs: runs of equal shape that train in one program, on rows that are read once."""

from vasae_jax.training.pack.checks import FREE, alike, check_pack
from vasae_jax.training.pack.rounds import Rounds, rounds_of
from vasae_jax.training.pack.state import Layout, PackState
from vasae_jax.training.pack.step import PackStep, make_round, widest

__all__ = [
    "FREE",
    "Layout",
    "PackState",
    "PackStep",
    "Rounds",
    "alike",
    "check_pack",
    "make_round",
    "rounds_of",
    "widest",
]
