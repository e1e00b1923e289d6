"""What features do on held-out text, for the layouts that show it: examples, histogram, logits."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vasae_jax.cache.vocab import Vocab


@dataclass(frozen=True)
class Example:
    """A piece of text on which a feature fires."""

    tokens: list[str]
    """As text; what is no text has its printable form."""
    values: list[float]
    """The feature's activation at each token."""
    fires_at: int
    """The token that the example was chosen for."""


@dataclass(frozen=True)
class Activity:
    """Arrays over F features; each has n examples of W tokens, the strongest ``top`` first."""

    vocab: Vocab
    tokens: np.ndarray
    """int32 [F, n, W], -1 beyond the window; all -1 where a feature fires less often"""
    shade: np.ndarray
    """float16 [F, n, W], the feature's activation at each token"""
    value: np.ndarray
    """float32 [F, n], its activation at the token that the example is of; 0 without one"""
    fires_at: int
    """Which of the W tokens that is."""
    top: int
    histogram: np.ndarray
    """int64 [F, b], firings by activation"""
    raised: np.ndarray
    """int32 [F, m], tokens by the logit lens, most first"""
    raised_by: np.ndarray
    lowered: np.ndarray
    lowered_by: np.ndarray

    def text(self, token: int) -> str:
        """A token as text; its printable form where it is empty or not UTF-8."""
        try:
            return self.vocab.token_bytes(token).decode() or self.vocab.display(token)
        except UnicodeDecodeError:
            return self.vocab.display(token)

    def examples(self, feature: int, part: slice) -> Iterator[Example]:
        """The examples of a feature in ``part`` of the n that there are."""
        parts = (array[feature, part] for array in (self.tokens, self.shade, self.value))
        for tokens, shade, value in zip(*parts, strict=True):
            if value > 0:
                inside = tokens >= 0
                values = shade[inside].astype(np.float64)
                place = int(inside[: self.fires_at].sum())
                values[place] = value
                yield Example(
                    [self.text(token) for token in tokens[inside].tolist()],
                    [round(one, 4) for one in values.tolist()],
                    place,
                )
