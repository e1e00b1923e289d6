"""Which rows of a run are pulled towards anchors."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal, NamedTuple, TypeVar

import jax

from vasae_jax.config import Config
from vasae_jax.sae import Params


def pulled_name(config: Config) -> Literal["W_enc", "W_dec"]:
    """The parameter whose rows are pulled."""
    return "W_enc" if config.anchor.pulls == "encoder" else "W_dec"


def pulled(params: Params, config: Config) -> jax.Array:
    """The matrix [F, d] whose rows are pulled."""
    return params[pulled_name(config)]


def keeps_unit(config: Config) -> bool:
    """Whether the run's decoder rows have norm 1 at every step."""
    return config.sae.normalize_decoder and config.sae.method != "tied"


def pulls_unit(config: Config) -> bool:
    """Whether the rows that are pulled have norm 1 at every step."""
    return keeps_unit(config) and config.anchor.pulls == "decoder"


# The settings that enter a step as numbers, in the form in which it takes them.
#
# Fixed numbers are compiled into a step. Where the runs of a pack differ in one, its program is
# given each run's own instead. Both go through the same operations, so that the results are the
# same to the last bit; what would be rounded differently on a device is worked out here, once.


Number = float | jax.Array
"""A number that is compiled in, or one that the program is given, []."""
Given = Mapping[str, jax.Array]
"""Knobs by name that a program is given, [] each."""


class Knobs(NamedTuple):
    """See :data:`SETTINGS` for what each comes from."""

    weight: Number
    """lambda, at its full weight"""
    lr: Number
    """peak learning rate"""
    rise: Number
    """share of the peak by which the rate rises in a step"""
    fall: Number
    """share of the peak by which it falls in a step, at the end"""
    target_cosine: Number
    """cosine at which a pull ends"""
    pre_bias: Number
    """share of b_dec taken from the input"""
    sqrt_rate: Number
    """1 where a feature weighs by the root of its firing rate, 0 where all weigh the same"""
    k: Number
    """features that may fire on a row, a whole number"""


SETTINGS = {
    "weight": "anchor.weight",
    "lr": "optim.lr",
    "rise": "optim.warmup",
    "fall": "optim.decay",
    "target_cosine": "anchor.target_cosine",
    "pre_bias": "sae.pre_bias",
    "sqrt_rate": "anchor.feature_weight",
    "k": "sae.k",
}
"""The setting behind each knob."""


def knobs_of(config: Config, given: Given | None = None) -> Knobs:
    """The knobs of a run; those ``given`` take the place of its own."""
    steps, optim = config.run.steps, config.optim
    own = Knobs(
        weight=config.anchor.weight,
        lr=optim.lr,
        rise=1.0 / max(1.0, optim.warmup * steps),
        # The last step is one before the rate is 0: a fall of a whole peak a step is none.
        fall=1.0 / max(1.0, optim.decay * steps),
        target_cosine=config.anchor.target_cosine,
        pre_bias=config.sae.pre_bias,
        sqrt_rate=float(config.anchor.feature_weight == "sqrt_rate"),
        k=config.sae.k,
    )
    return Knobs(**{**own._asdict(), **(given or {})})


# The two programs of a run whose pull sets in late: steps before it, and steps with it.
#
# Before the pull nothing reads the nearest anchors, and the gradient of the pull counts for nothing.
# A program that leaves both out is the plain step. One program for all steps would have to ask at
# each which it is, and with that copy what it may change.


S = TypeVar("S")


def sets_in(config: Config) -> int:
    """Number of the first step, from 1, after which nearest anchors are looked after.

    The gradient first has a part of the pull one step later.
    """
    if config.sae.method != "soft":
        return 1
    return max(1, math.ceil(config.anchor.start * config.run.steps))


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
