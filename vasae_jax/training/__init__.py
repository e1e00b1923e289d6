"""Loss, step, state and loop of a training run, its checkpoints, and runs trained together."""

from vasae_jax.training.loop import train
from vasae_jax.training.trained import Run, open_trained

__all__ = ["Run", "open_trained", "train"]
