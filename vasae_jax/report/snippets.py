"""A few words of text around a row of a cache, the row's own token marked."""

from vasae_jax.cache import Cache
from vasae_jax.cache.vocab import printable

BEFORE, AFTER = 8, 3
"""Tokens shown on either side, of the same window."""


class Snippets:
    """The text of one split, by row."""

    def __init__(self, cache: Cache, split: str) -> None:
        """Raise UserError where the cache lacks the split, or a column is damaged."""
        rows = cache.rows(split)
        self._vocab = cache.vocab()
        self._tokens = cache.column("tokens", split).read(0, rows)
        self._positions = cache.column("positions", split).read(0, rows)

    def text(self, row: int) -> str:
        """``row``'s token in brackets, between what comes before it and after it."""
        start = last = row
        while start > max(row - BEFORE, 0) and self._goes_on(start - 1):
            start -= 1
        while last < min(row + AFTER, len(self._tokens) - 1) and self._goes_on(last):
            last += 1
        left, right = self._words(start, row), self._words(row + 1, last + 1)
        return f"{left}[{self._words(row, row + 1)}]{right}"

    def _goes_on(self, row: int) -> bool:
        return bool(self._positions[row + 1] == self._positions[row] + 1)

    def _words(self, start: int, stop: int) -> str:
        data = b"".join(self._vocab.token_bytes(t) for t in self._tokens[start:stop].tolist())
        return printable(data).replace("␣", " ") if data else ""
