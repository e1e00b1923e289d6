"""What can be wrong with a pack of runs, found before anything compiles or is written."""

import os
from collections.abc import Sequence

from vasae_jax.config import Config
from vasae_jax.config.overrides import flatten
from vasae_jax.system.errors import UserError
from vasae_jax.training.checks import order_seed

FREE = ("anchor.weight", "optim.lr", "run.seed", "run.out")
"""Settings in which members of a pack may differ."""


def check_pack(configs: Sequence[Config]) -> None:
    """Raise UserError where runs cannot train in one program on the same rows.

    They may differ in FREE alone; the order of the rows must be the same, the directories
    must not, and the mesh's axis ``member`` divides their number.
    """
    if not configs:
        raise UserError("a pack has no runs; expected at least one Config")
    first = configs[0]
    for number, config in enumerate(configs[1:], 1):
        _check_like(first, config, number)
    places: dict[str, int] = {}
    for number, config in enumerate(configs):
        other = places.setdefault(os.path.abspath(config.run.out), number)
        if other != number:
            raise UserError(
                f"runs {other} and {number} of the pack both have --run.out={config.run.out}; "
                "expected a directory for each"
            )
    over = first.mesh.member
    if over < 1 or len(configs) % over:
        raise UserError(
            f"--mesh.member is {over}; expected a divisor of the {len(configs)} runs of the pack"
        )


def _check_like(first: Config, config: Config, number: int) -> None:
    """Raise UserError for the first setting that keeps run ``number`` from ``first``'s pack."""
    theirs = flatten(config)
    for name, value in flatten(first).items():
        if name not in FREE and theirs[name] != value:
            raise UserError(
                f"runs 0 and {number} of the pack differ in {name} ({value!r} and "
                f"{theirs[name]!r}); expected no difference but in {', '.join(FREE)}"
            )
    if order_seed(first) != order_seed(config):
        raise UserError(
            f"runs 0 and {number} of the pack have run.seed {first.run.seed} and "
            f"{config.run.seed}, so each has an order of rows of its own; expected one "
            "--data.seed for all, the seed of the order that they share"
        )
