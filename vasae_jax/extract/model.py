"""The interface of a language model to extraction, and which of its sites to extract."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from vasae_jax.cache import Vocabulary
from vasae_jax.lm.tokenizer import Tokenizer
from vasae_jax.sites import Site, check_supported
from vasae_jax.utils.errors import UserError

Fetch = Callable[[], np.ndarray]
"""Waits for the rows of a forward pass: [sites, S, T, d_model]."""


class VocabularySource(Protocol):
    """What a cache needs of a model besides rows; both embeddings are float32 [V, d_model]."""

    spec: Any
    """Sizes: the Spec of vasae_jax.lm, or that of vasae_jax.extract.sources."""
    tokenizer: Tokenizer
    id: str
    revision: str | None

    @property
    def source_digest(self) -> str: ...  # noqa: D102
    def embedding(self) -> np.ndarray: ...  # noqa: D102
    def unembedding(self) -> np.ndarray: ...  # noqa: D102
    def final_norm(self) -> dict[str, Any]: ...  # noqa: D102


class Model(VocabularySource, Protocol):
    """A language model that rows can be extracted from, such as :class:`vasae_jax.lm.LM`.

    ``residuals(tokens, sites)`` of tokens [S, T] gives a jax.Array [len(sites), S, T, d_model].
    A model that takes several windows in one row of ``tokens`` has ``packs = True`` and
    ``batch_multiple``, and takes ``positions`` after the sites. One that JAX does not run has
    ``rows(tokens, sites, dtype)`` as well, which returns a function that waits for the same in
    NumPy.
    """

    computed: str
    """How the model is run, in words."""

    def residuals(self, tokens: np.ndarray, sites: Sequence[Site]) -> Any: ...  # noqa: D102


def read_vocabulary(model: VocabularySource) -> Vocabulary:
    """What a cache keeps of ``model`` besides rows; loads its weights if they are not yet."""
    unembedding = None if model.spec.tied else model.unembedding()
    return Vocabulary(model.embedding(), unembedding, model.final_norm(), model.tokenizer.vocab())


def special_ids(tokenizer: Tokenizer) -> set[int]:
    """The ids of a tokenizer's special tokens: BOS, EOS, padding and others."""
    added = tokenizer.backend.get_added_tokens_decoder()
    special = {index for index, token in added.items() if token.special}
    return special | {i for i in (tokenizer.bos_id, tokenizer.eos_id) if i is not None}


def packs(model: Any) -> bool:
    """Whether the model takes several windows in one row of tokens."""
    return bool(getattr(model, "packs", False))


def parse_layers(text: str) -> tuple[int, ...] | None:
    """``"3,9"`` as (3, 9), ascending and distinct; ``"all"`` as None; raises UserError."""
    if text.strip() == "all":
        return None
    try:
        layers = sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise UserError(f"layers are {text!r}; expected numbers as in 3,9, or all") from error
    if layers[0] < 0:
        raise UserError(f"layer {layers[0]} is negative; expected numbers from 0 (the first block)")
    return tuple(layers)


def choose_sites(
    layers: tuple[int, ...] | None, kinds: Sequence[str], n_layers: int, model: str
) -> tuple[Site, ...]:
    """The sites of ``kinds`` in ``layers`` (None: all of the model's), ascending.

    Raises:
        UserError: the model has no such layer, or a kind is not supported.
    """
    layers = tuple(range(n_layers)) if layers is None else layers
    wrong = [layer for layer in layers if not 0 <= layer < n_layers]
    if wrong or not layers:
        raise UserError(
            f"layer is {wrong[0] if wrong else 'none'}; expected 0 to {n_layers - 1} of {model}"
        )
    sites = {Site(layer, kind) for layer in layers for kind in kinds}
    return tuple(check_supported(site, "a site to extract") for site in sorted(sites))
