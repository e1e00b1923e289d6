"""Patching: the language model that a cache was made with, and the windows that it runs on."""

from dataclasses import dataclass
from typing import Any, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np

from vasae_jax.cache import Cache
from vasae_jax.config import Mask
from vasae_jax.extract.backends import Backend, load_model
from vasae_jax.extract.model import Model as ExtractionModel
from vasae_jax.sites import Site
from vasae_jax.stream.source import Source
from vasae_jax.utils.errors import UserError


class Model(ExtractionModel, Protocol):
    """A language model of either backend; its ``logits`` of tokens int [S, T] are [S, T, V]."""

    def logits(self, tokens: np.ndarray) -> jax.Array | np.ndarray: ...  # noqa: D102


def open_model(source: str, backend: Backend, cache: Cache) -> Model:
    """Load the model of ``cache``, with the compute dtype that the cache was made with.

    ``auto`` is the Flax model where this package has its architecture, and otherwise PyTorch's
    where PyTorch is installed.

    Raises:
        UserError: no such model, one that no backend reads, or another than the cache's.
    """
    dtype = "bfloat16" if "bfloat16" in cache.manifest.computed else "float32"
    model = load_model(source, backend, dtype)
    check_model(model, cache)
    return model


def check_model(model: Model, cache: Cache) -> None:
    """Raise UserError unless ``model`` is the one that the rows of ``cache`` come from."""
    manifest = cache.manifest
    for what, actual, expected in (
        ("rows of width", model.spec.d_model, manifest.d_model),
        ("a vocabulary of", model.spec.vocab_size, manifest.vocab_size),
        ("weights of digest", model.source_digest, manifest.model.source_digest),
    ):
        if actual != expected:
            raise UserError(
                f"model {model.id} has {what} {actual}; expected {expected}, those of "
                f"{manifest.model.id} that cache {cache.url} was made with"
            )


def rows_and_logits(
    model: Any, tokens: np.ndarray, site: Site, places: np.ndarray | None = None
) -> tuple[jax.Array, jax.Array]:
    """The rows at ``site`` [S, T, d] on ``tokens`` [S, T], and the model's logits.

    Logits are those of all positions, [S, T, V], or of ``places`` [S] alone, [S, 1, V]. A model
    that JAX runs gives both in one pass.
    """
    if hasattr(model, "residual_and_logits"):
        both: tuple[jax.Array, jax.Array] = model.residual_and_logits(tokens, site, places)
        return both
    x = jnp.asarray(model.residuals(tokens, (site,))[0])
    return x, _at(model.logits(tokens), places)


def patched_logits(
    model: Any, tokens: np.ndarray, rows: jax.Array, site: Site, places: np.ndarray | None = None
) -> jax.Array:
    """Logits of ``model`` on ``tokens`` [S, T] with ``rows`` in place of those at ``site``.

    They are those of all positions, [S, T, V], or of ``places`` [S] alone, [S, 1, V]. A model that
    JAX runs continues from the rows; another has ``patched``, which begins with the tokens and
    replaces the rows on the way.
    """
    if hasattr(model, "patched"):
        return _at(model.patched(tokens, rows, site), places)
    logits: jax.Array = model.continue_from(rows, site, places)
    return logits


def _at(logits: jax.Array | np.ndarray, places: np.ndarray | None) -> jax.Array:
    if places is None:
        return jnp.asarray(logits)
    return jnp.asarray(logits[np.arange(len(places)), places])[:, None]


@dataclass(frozen=True)
class Windows:
    """Some of a cache's token windows, right-padded with token 0.

    Attributes:
        tokens: int32 [S, T].
        real: bool [S, T], False for padding.
        keep: bool [S, T], False for padding and for masked rows.
    """

    tokens: np.ndarray
    real: np.ndarray
    keep: np.ndarray

    @property
    def targets(self) -> np.ndarray:
        """int32 [S, T], the next token of each position (0 where there is none)."""
        return np.pad(self.tokens[:, 1:], ((0, 0), (0, 1)))

    @property
    def scored(self) -> np.ndarray:
        """bool [S, T], positions whose next token lies in the window."""
        return np.pad(self.real[:, 1:], ((0, 0), (0, 1)))


class WindowTable:
    """Every window of a split, by its number in storage order."""

    def __init__(
        self, tokens: np.ndarray, positions: np.ndarray, keep: np.ndarray, length: int
    ) -> None:
        """Windows begin where ``positions`` [rows] is 0 and are at most ``length`` tokens long.

        Raises:
            UserError: the rows do not begin with a window, or one is longer.
        """
        self._tokens, self._keep, self._length = tokens, keep, length
        self._starts = np.flatnonzero(positions == 0)
        goes_on = np.diff(positions) == 1
        if (
            not len(positions)
            or positions[0] != 0
            or positions.max() >= length
            or not (goes_on | (positions[1:] == 0)).all()
        ):
            raise UserError(
                f"the cache's positions are not those of windows of at most {length} tokens; "
                "expected each window to begin at position 0"
            )
        self._lengths = np.diff(np.append(self._starts, len(positions)))

    @classmethod
    def of(cls, cache: Cache, site: Site, split: str, mask: Mask) -> Self:
        """The windows of a split; masked rows have ``keep`` False.

        Raises:
            UserError: the cache lacks the site or split, or a column is damaged.
        """
        rows = cache.rows(split)
        names = ("tokens", "positions")
        tokens, positions = (cache.column(name, split).read(0, rows) for name in names)
        keep = Source(cache, site, split, mask).keep()
        return cls(tokens, positions, keep, cache.manifest.context_length)

    def __len__(self) -> int:
        """How many windows there are."""
        return len(self._starts)

    def sample(self, most: int, length: int = 0) -> np.ndarray:
        """Numbers of at most ``most`` windows, evenly spaced from the first; int64 [n].

        Windows of fewer than ``length`` tokens are passed over.
        """
        numbers = np.flatnonzero(self._lengths >= length)
        count = min(most, len(numbers))
        return numbers[np.arange(count) * len(numbers) // max(count, 1)]

    def first_rows(self, numbers: np.ndarray) -> np.ndarray:
        """The row of the split at which each of these windows begins; int64 [n]."""
        rows: np.ndarray = self._starts[numbers]
        return rows

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The window of each of ``rows`` [n] of the split, and its position in it: int [n] each."""
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        return numbers, rows - self._starts[numbers]

    def take(self, numbers: np.ndarray, size: int) -> Windows:
        """The windows of these ``numbers`` [n], and empty ones up to ``size``."""
        lengths = np.zeros(size, np.int64)
        lengths[: len(numbers)] = self._lengths[numbers]
        real = np.arange(self._length)[None, :] < lengths[:, None]
        tokens, keep = np.zeros(real.shape, np.int32), np.zeros(real.shape, np.bool_)
        rows = (self._starts[numbers][:, None] + np.arange(self._length))[real[: len(numbers)]]
        tokens[real], keep[real] = self._tokens[rows], self._keep[rows]
        return Windows(tokens, real, keep)
