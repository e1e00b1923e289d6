"""What extraction asks of a language model."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from vasae_jax.lm.tokenizer import Tokenizer

Fetch = Callable[[], np.ndarray]
"""Waits for the rows of a forward pass: [layers, S, T, d_model]."""


class Model(Protocol):
    """What extraction asks of a model; :class:`vasae_jax.lm.LM` is one.

    ``residuals(tokens, layers)`` of tokens [S, T] gives a jax.Array [len(layers), S, T, d_model];
    both embeddings are float32 [V, d_model]. A model that takes several windows in one row of
    ``tokens`` has ``packs = True`` and ``batch_multiple``, and takes ``positions`` after the
    layers. One that is not run by JAX has ``rows(tokens, layers, dtype)`` as well, which returns a
    function that waits for the same in NumPy.
    """

    spec: Any
    """Sizes: the Spec of vasae_jax.lm, or that of vasae_jax.extract.sources."""
    tokenizer: Tokenizer
    id: str
    revision: str | None
    computed: str

    @property
    def source_digest(self) -> str: ...  # noqa: D102
    def residuals(self, tokens: np.ndarray, layers: Sequence[int]) -> Any: ...  # noqa: D102
    def embedding(self) -> np.ndarray: ...  # noqa: D102
    def unembedding(self) -> np.ndarray: ...  # noqa: D102
    def final_norm(self) -> dict[str, Any]: ...  # noqa: D102


def packs(model: Any) -> bool:
    """Whether the model takes several windows in one row of tokens."""
    return bool(getattr(model, "packs", False))
