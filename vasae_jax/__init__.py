"""Train sparse autoencoders whose features are named by tokens.

What is listed here is the public interface; it is loaded when it is first asked for, so that
``import vasae_jax`` alone loads neither JAX nor NumPy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vasae_jax.cache import Cache as Cache
    from vasae_jax.cache import open_cache as open_cache
    from vasae_jax.config import Config as Config
    from vasae_jax.dictionary.dictionary import Dictionary as Dictionary
    from vasae_jax.dictionary.files import load as load
    from vasae_jax.dictionary.files import read_dictionary as read_dictionary
    from vasae_jax.dictionary.files import write_dictionary as write_dictionary
    from vasae_jax.evaluation.log import evaluate as evaluate
    from vasae_jax.evaluation.publish import publish as publish
    from vasae_jax.sae.module import SAE as SAE
    from vasae_jax.sweep.run import train_points as train_points
    from vasae_jax.training.loop import train as train
    from vasae_jax.training.run import open_trained as open_trained
    from vasae_jax.utils.errors import UserError as UserError

__version__ = "0.1.0"


_HOMES = {
    "Cache": "cache",
    "Config": "config",
    "Dictionary": "dictionary.dictionary",
    "SAE": "sae.module",
    "UserError": "utils.errors",
    "evaluate": "evaluation.log",
    "load": "dictionary.files",
    "open_cache": "cache",
    "open_trained": "training.run",
    "publish": "evaluation.publish",
    "read_dictionary": "dictionary.files",
    "train": "training.loop",
    "train_points": "sweep.run",
    "write_dictionary": "dictionary.files",
}
"""Each public name and the room that it lives in."""

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    """Load a public name from its room (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module vasae_jax has no attribute {name!r}")
    return getattr(import_module(f"vasae_jax.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
