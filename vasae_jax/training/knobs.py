"""The settings that enter a step as numbers, in the form in which it takes them.

Fixed numbers are compiled into a step. Where the runs of a pack differ in one, its program is
given each run's own instead. Both go through the same operations, so that the results are the
same to the last bit; what would be rounded differently on a device is worked out here, once.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax

from vasae_jax.config import Config

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
    enough: Number
    """cosine at which a pull ends"""
    pre_bias: Number
    """share of b_dec taken from the input"""
    root_rate: Number
    """1 where a feature weighs by the root of its firing rate, 0 where all weigh the same"""
    k: Number
    """features that may fire on a row, a whole number"""


SETTINGS = {
    "weight": "anchor.weight",
    "lr": "optim.lr",
    "rise": "optim.warmup",
    "fall": "optim.decay",
    "enough": "anchor.enough",
    "pre_bias": "sae.pre_bias",
    "root_rate": "anchor.per_feature",
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
        enough=config.anchor.enough,
        pre_bias=config.sae.pre_bias,
        root_rate=float(config.anchor.per_feature == "root_rate"),
        k=config.sae.k,
    )
    return Knobs(**{**own._asdict(), **(given or {})})
