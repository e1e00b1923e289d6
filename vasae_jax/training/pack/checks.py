"""What can be wrong with a pack of runs, found before anything compiles or is written."""

import os
from collections.abc import Sequence

from vasae_jax.config import Config
from vasae_jax.config.overrides import flatten
from vasae_jax.system.errors import UserError
from vasae_jax.training.checks import order_seed
from vasae_jax.training.knobs import SETTINGS
from vasae_jax.training.settle import may_screen

FREE = (*SETTINGS.values(), "data.layer", "run.seed", "run.out")
"""Settings in which members of a pack may differ."""
_PLACES = ("run.overwrite", "run.fall_back")
"""Of one start only: no part of what is trained."""


def alike(config: Config, features: int, platform: str) -> tuple[tuple[str, object], ...]:
    """What the runs of a pack have in common, by name: equal for those that may train together.

    Args:
        config: of a run.
        features: those on one device.
        platform: of the devices.
    """
    fixed = {name: value for name, value in flatten(config).items() if name not in FREE + _PLACES}
    # Other programs, with their own rounding: one finds few features, one has no term for b_dec.
    fixed["the seed of the order of the rows"] = order_seed(config)
    fixed["whether k features may be found through bfloat16"] = may_screen(
        config, features, platform
    )
    fixed["whether b_dec is taken from the input"] = config.sae.pre_bias != 0
    return tuple(fixed.items())


def check_pack(configs: Sequence[Config], features: int, platform: str) -> None:
    """Raise UserError where runs cannot train in one program on the same rows.

    They may differ in FREE alone; the order of the rows must be the same, and the directories
    must not. For the other arguments see :func:`alike`.
    """
    if not configs:
        raise UserError("a pack has no runs; expected at least one Config")
    first = dict(alike(configs[0], features, platform))
    for number, config in enumerate(configs[1:], 1):
        _check_seeds(configs[0], config, number)
        for name, value in alike(config, features, platform):
            if value != first[name]:
                raise UserError(
                    f"runs 0 and {number} of the pack differ in {name} ({first[name]!r} and "
                    f"{value!r}); expected no difference but in {', '.join(FREE)}"
                )
    places: dict[str, int] = {}
    for number, config in enumerate(configs):
        other = places.setdefault(os.path.abspath(config.run.out), number)
        if other != number:
            raise UserError(
                f"runs {other} and {number} of the pack both have --run.out={config.run.out}; "
                "expected a directory for each"
            )


def _check_seeds(first: Config, config: Config, number: int) -> None:
    if first.data.seed == config.data.seed and order_seed(first) != order_seed(config):
        raise UserError(
            f"runs 0 and {number} of the pack have run.seed {first.run.seed} and "
            f"{config.run.seed}, so each has an order of rows of its own; expected one "
            "--data.seed for all, the seed of the order that they share"
        )
