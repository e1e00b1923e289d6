"""Where curves are shown beside metrics.jsonl: TensorBoard, Weights & Biases."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vasae_jax.config import Config
from vasae_jax.config.overrides import to_dict
from vasae_jax.distributed.hosts import is_first
from vasae_jax.training.run_dir import CONFIG, RunDir
from vasae_jax.utils.errors import UserError, first_line
from vasae_jax.utils.files import sha256_bytes
from vasae_jax.utils.public import public_settings
from vasae_jax.utils.shown import shown

COSINES, SHARES = np.linspace(-1, 1, 81), np.linspace(0, 1, 41)
"""Edges of histograms of cosines and of shares."""


class Histogram(NamedTuple):
    """A value for each of some features, and the edges of its bins."""

    values: np.ndarray
    """[n], from the first to the last edge"""
    edges: np.ndarray
    """[bins + 1], rising"""


Histograms = Mapping[str, Histogram]
"""Histograms by name."""


def summary_writer(directory: Path) -> Any:
    """TensorBoard's writer to a directory; UserError where the package is not installed."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise UserError(
            "--run.tensorboard needs tensorboardX, which is not installed; "
            "expected pip install 'vasae-jax[tensorboard]'"
        ) from None
    return SummaryWriter(str(directory))


class _TensorBoard:
    """Scalars and histograms in the run's folder ``tensorboard``."""

    def __init__(self, run: RunDir) -> None:
        self._writer = summary_writer(run.path / "tensorboard")

    def add(self, step: int, values: Mapping[str, float], histograms: Histograms) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        for name, histogram in histograms.items():
            self._writer.add_histogram(name, histogram.values, step, bins=histogram.edges)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """A run there for each run here: resumed, it goes on where it was.

    Steps are a number beside the others, not wandb's own count, which could not go back to the
    checkpoint that a run is resumed from.
    """

    def __init__(self, run: RunDir, config: Config) -> None:
        try:
            import wandb
        except ImportError:
            raise UserError(
                "--run.wandb needs wandb, which is not installed; "
                "expected pip install 'vasae-jax[wandb]'"
            ) from None
        self._histogram = wandb.Histogram
        settings = {**public_settings(to_dict(config)), "config_hash": config_hash(config)}
        try:
            self._run: Any = wandb.init(
                project=config.run.wandb,
                id=run_id(run),
                name=shown(run.path.name),
                dir=str(run.path),
                config=settings,
                resume="allow",
                reinit="create_new",
            )
        except wandb.errors.Error as error:
            raise UserError(
                f"--run.wandb cannot open project {config.run.wandb} ({first_line(error)}); "
                "expected to be logged in (wandb login), or WANDB_MODE=offline"
            ) from error
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def add(self, step: int, values: Mapping[str, float], histograms: Histograms) -> None:
        drawn = {
            name: self._histogram(np_histogram=np.histogram(each.values, each.edges))
            for name, each in histograms.items()
        }
        self._run.log({**values, **drawn, "step": step})

    def close(self) -> None:
        self._run.finish()


def open_boards(run: RunDir, config: Config) -> list[_TensorBoard | _Wandb]:
    """The boards that ``config`` asks for, on the first process.

    Raises:
        UserError: a package that one needs is not installed, or it cannot be opened.
    """
    if not is_first():
        return []
    boards: list[_TensorBoard | _Wandb] = [_TensorBoard(run)] if config.run.tensorboard else []
    return [*boards, _Wandb(run, config)] if config.run.wandb else boards


def config_hash(config: Config) -> str:
    """Twelve hexadecimal digits of the SHA-256 of all settings but those of the place of output."""
    settings = to_dict(config)
    settings["run"] = {key: value for key, value in settings["run"].items() if key != "out"}
    return sha256_bytes(json.dumps(settings, sort_keys=True).encode())[:12]


def run_id(run: RunDir) -> str:
    """The run's name to wandb: the same for a folder's run whenever it is resumed."""
    made = (run.path / CONFIG).read_bytes()
    return sha256_bytes(str(run.path.resolve()).encode() + made)[:16]
