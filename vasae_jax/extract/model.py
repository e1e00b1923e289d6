"""What extraction asks of a language model."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vasae_jax.lm.tokenizer import Tokenizer
from vasae_jax.utils.errors import UserError

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


# Which layers of a model to extract.


def parse_layers(text: str) -> tuple[int, ...] | None:
    """``"3,9"`` as (3, 9), ascending and distinct; ``"all"`` as None; raises UserError."""
    if text.strip() == "all":
        return None
    try:
        layers = sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise UserError(
            f"layers {text!r} is no list; expected numbers as in 3,9, or all"
        ) from error
    if layers[0] < 0:
        raise UserError(f"layer {layers[0]} is negative; expected numbers from 0 (the first block)")
    return tuple(layers)


def check_layers(layers: tuple[int, ...] | None, n_layers: int, model: str) -> tuple[int, ...]:
    """The layers as numbers, None being all; raises UserError where the model has none such."""
    if layers is None:
        return tuple(range(n_layers))
    wrong = [layer for layer in layers if not 0 <= layer < n_layers]
    if wrong or not layers:
        raise UserError(
            f"layer {wrong[0] if wrong else 'none'} was asked of {model}, which has {n_layers}; "
            f"expected 0 to {n_layers - 1}"
        )
    return tuple(sorted(set(layers)))


# Which block's output other libraries mean by a name.


def layer_of_hook(hook: str, where: Path) -> int | None:
    """The block whose output ``hook`` reads; None where it says nothing of a layer.

    TransformerLens' ``hook_resid_pre`` of a block is the output of the one before it. A module's
    name, as ``model.layers.5``, ``h.5`` or ``gpt_neox.layers.5``, is that block's output.

    Raises:
        UserError: a place that is no block's output.
    """
    found = re.fullmatch(r"blocks\.(\d+)\.hook_resid_(pre|post)", hook)
    if found:
        layer = int(found[1]) - (found[2] == "pre")
        if layer >= 0:
            return layer
    found = re.fullmatch(r"(?:[a-z_]+\.)*(?:layers|h|blocks)[._](\d+)(?:\.output)?", hook)
    if found:
        return int(found[1])
    if not re.search(r"\d", hook) and not hook.startswith("hook"):
        return None
    raise UserError(
        f"{where} reads {hook}; expected the residual stream after a block, "
        "as blocks.5.hook_resid_post or layers.5"
    )
