"""The two programs of a run whose pull sets in late: steps before it, and steps with it.

Before the pull nothing reads the nearest anchors, and the gradient of the pull counts for nothing.
A program that leaves both out is the plain step. One program for all steps would have to ask at
each which it is, and with that copy what it may change.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from vasae_jax.config import Config

S = TypeVar("S")


def sets_in(config: Config) -> int:
    """Number of the first step, from 1, after which nearest anchors are looked after.

    The gradient first has a part of the pull one step later.
    """
    if config.sae.method != "soft":
        return 1
    return max(1, math.ceil(config.anchor.ramp_from * config.run.steps))


def before_pull(config: Config) -> Config:
    """``config`` without what pulls; the state of its steps is still that of ``config``."""
    return replace(config, sae=replace(config.sae, method="plain"))


def phases(config: Config, make: Callable[[Callable[[Config], Config]], S]) -> Callable[[int], S]:
    """The step for each number from 1.

    ``make`` makes a step, of settings changed as it is told; it should compile at the first call.
    """
    first, late = sets_in(config), make(lambda same: same)
    early = make(before_pull) if first > 1 else late
    return lambda number: early if number < first else late
