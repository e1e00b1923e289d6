"""Settings that depend on the machine, decided before a run starts and kept in its config.json.

They change the last digits of a result. So a resumed run keeps what it began with on any machine,
and all hosts take what the first one decides.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

from jax.sharding import Mesh

from vasae_jax.config import Config
from vasae_jax.distributed.autotune import fastest
from vasae_jax.distributed.hosts import broadcast_from_first
from vasae_jax.distributed.mesh import DATA, MODEL
from vasae_jax.sae import choose_execution, screen
from vasae_jax.training.log import print_once
from vasae_jax.training.run_dir import CONFIG, read_run


def autotuned_runs(
    configs: Sequence[Config], mesh: Mesh, shape: tuple[int, int]
) -> Sequence[Config]:
    """``configs`` with ``sae.screen`` decided: as the first run began, else by measuring.

    ``shape`` is [features, numbers in a row].

    Raises:
        UserError: the first run's config.json cannot be read.
    """
    first = configs[0]
    if first.sae.screen != "auto":
        return configs
    choice = broadcast_from_first(
        lambda: _choice_of_unfinished(first) or _faster(first, mesh, shape)
    )
    return [_with_screen(config, choice) for config in configs]


def autotuned(config: Config, mesh: Mesh, shape: tuple[int, int]) -> Config:
    """``config`` with ``sae.screen`` decided by measuring, for steps that belong to no run."""
    if config.sae.screen != "auto":
        return config
    return _with_screen(config, broadcast_from_first(lambda: _faster(config, mesh, shape)))


def may_screen(config: Config, features: int, platform: str) -> bool:
    """Whether a screen could be faster, for so many features on one device.

    The screen's bound grows with the norm of the rows, so it is too loose for rows that are not
    centered.
    """
    sae = config.sae
    return (
        (sae.activation, sae.compute_dtype, sae.pre_bias) == ("topk", "float32", 1.0)
        and choose_execution(sae.execution, platform) == "sparse"
        and platform == "cpu"
        and screen.may_pay(features, sae.k)
    )


def _choice_of_unfinished(config: Config) -> str:
    """``sae.screen`` of the run that is resumed; empty for a new run."""
    path = Path(config.run.out)
    if config.run.overwrite or not (path / CONFIG).is_file():
        return ""
    return read_run(path).config.sae.screen


def _faster(config: Config, mesh: Mesh, shape: tuple[int, int]) -> str:
    """``on`` or ``off``, whichever is faster on this machine."""
    sae, features, width = config.sae, shape[0] // mesh.shape[MODEL], shape[1]
    if not may_screen(config, features, mesh.devices.flat[0].platform):
        return "off"
    rows = config.data.batch // mesh.shape[DATA]
    winner = fastest(
        f"top {sae.k} of {features} features, {min(rows, screen.MEASURED_ROWS)} rows of {width}",
        lambda: screen.ways(rows, width, features, sae.k),
    )
    print_once(f"the encoder's product on this machine: {winner}")
    return "on" if winner.name == screen.SCREENED else "off"


def _with_screen(config: Config, choice: str) -> Config:
    screen = cast(Literal["auto", "on", "off"], choice)  # auto: as an earlier version began it
    return replace(config, sae=replace(config.sae, screen=screen))
