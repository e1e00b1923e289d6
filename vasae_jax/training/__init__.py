"""Loss, step, state and loop of a training run, its checkpoints, and runs trained together.

What is listed here is loaded when it is first asked for: settings are checked without JAX.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vasae_jax.training.loop import train as train
    from vasae_jax.training.run import Run as Run
    from vasae_jax.training.run import open_trained as open_trained


_HOMES = {"Run": "run", "open_trained": "run", "train": "loop"}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Load a public name from its module (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module vasae_jax.training has no attribute {name!r}")
    return getattr(import_module(f"vasae_jax.training.{_HOMES[name]}"), name)
