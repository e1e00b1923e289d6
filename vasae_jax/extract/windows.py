"""Token windows: every document tokenised, cut to the context length, and given its split.

All of it happens before the model's weights are read, so that counts are exact, an empty
text is found early, and the same text always gives the same windows in the same order.
The tokens take 4 bytes a row in memory, against 2 * d_model * layers on disk.
"""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np

from vasae_jax.system.errors import UserError

SPLITS = ("train", "heldout")


@dataclass(frozen=True)
class Windows:
    """All windows of a text, one after another.

    Attributes:
        tokens: int32 [N], the windows' tokens joined, BOS included where there is one.
        starts: int64 [W + 1], where each window begins in ``tokens``.
        docs: int32 [W], index of each window's document in source order.
        heldout: bool [W], whether that document is held out.
        context_length: T, the longest window (tokens).
        bos: whether each window begins with a BOS token.
        digest: SHA-256 over the documents read, in order.
    """

    tokens: np.ndarray
    starts: np.ndarray
    docs: np.ndarray
    heldout: np.ndarray
    context_length: int
    bos: bool
    digest: str

    @cached_property
    def lengths(self) -> np.ndarray:
        """int64 [W]: tokens in each window, at least 2 and at most the context length."""
        return np.diff(self.starts)

    def of_split(self, split: str) -> np.ndarray:
        """bool [W]: whether each window is of ``split``."""
        return np.asarray(self.heldout == (split == "heldout"))

    def count(self, split: str) -> tuple[int, int]:
        """Rows and documents of one split."""
        mine = self.of_split(split)
        return int(self.lengths[mine].sum()), len(np.unique(self.docs[mine]))


def make_windows(
    documents: Iterable[str],
    encode: Callable[[str], list[int]],
    context_length: int,
    *,
    bos_id: int | None = None,
    heldout_share: float = 0.1,
    max_rows: int | None = None,
    report: Callable[[int], None] = lambda rows: None,
) -> Windows:
    """Tokenise ``documents`` and cut each into windows of at most ``context_length`` tokens.

    A window holds tokens of one document only; where ``bos_id`` is given it is every
    window's first token. Windows of fewer than 2 tokens are dropped. With ``max_rows``
    reading stops before the first window that would exceed it.

    Args:
        documents: texts in source order; a document's index is its place among these.
        encode: text to token ids, without special tokens.
        context_length: tokens in the longest window, BOS included; at least 2.
        bos_id: token put before each window, or None.
        heldout_share: share of documents to hold out, over 0 and below 1.
        max_rows: the most rows (tokens) to keep, or None for all.
        report: called with the rows so far after each document.

    Raises:
        UserError: no document has 2 tokens, none fits into ``max_rows``, or only one split
            would have documents.
    """
    tokens, lengths, docs = array("i"), array("q"), array("i")
    kept: list[float] = []
    sha, head = hashlib.sha256(), [] if bos_id is None else [bos_id]
    read = _documents(documents, encode, head, context_length, max_rows)
    for index, (data, cut) in enumerate(read):
        sha.update(len(data).to_bytes(8, "little") + data)
        tokens.extend(chain.from_iterable(cut))
        lengths.extend(map(len, cut))
        docs.extend([index] * len(cut))
        kept.extend([document_fraction(data)] * len(cut))
        report(len(tokens))
    if not docs:
        raise UserError("the text is empty: no document has 2 tokens; expected some text")
    starts = np.concatenate([[0], np.cumsum(np.array(lengths, np.int64))])
    ids, of = np.array(tokens, np.int32), np.array(docs, np.int32)
    heldout = _heldout(np.array(kept), heldout_share)
    return Windows(ids, starts, of, heldout, context_length, bool(head), sha.hexdigest())


def document_fraction(data: bytes) -> float:
    """A document's place in [0, 1]: the first 8 bytes of its text's SHA-256 as a fraction.

    It depends on the text alone, so equal documents share a split and order is immaterial.
    """
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big") / 2.0**64


def _documents(
    documents: Iterable[str],
    encode: Callable[[str], list[int]],
    head: list[int],
    context_length: int,
    max_rows: int | None,
) -> Iterator[tuple[bytes, list[list[int]]]]:
    """Each document's bytes and windows; the last is the first that ``max_rows`` cuts short."""
    used = 0
    for text in documents:
        cut, full = _cut(encode(text), head, context_length, max_rows, used)
        used += sum(map(len, cut))
        if full and not used:
            raise UserError(f"max rows is {max_rows}; expected room for one window at least")
        yield text.encode("utf-8", "surrogatepass"), cut
        if full:
            return


def _cut(
    ids: list[int], head: list[int], context_length: int, max_rows: int | None, used: int
) -> tuple[list[list[int]], bool]:
    """One document's windows, and whether ``max_rows`` leaves no room for more."""
    step = context_length - len(head)
    cut: list[list[int]] = []
    for first in range(0, len(ids), step):
        window = head + ids[first : first + step]
        if len(window) < 2:
            continue
        if max_rows is not None and used + len(window) > max_rows:
            return cut, True
        used += len(window)
        cut.append(window)
    return cut, False


def _heldout(fractions: np.ndarray, share: float) -> np.ndarray:
    """Which windows are held out: documents below ``share``, moved just enough that both exist."""
    lowest, highest = fractions.min(), fractions.max()
    if lowest == highest:
        raise UserError(
            "the text has one distinct document with 2 tokens or more; expected at least two, "
            "so that one can be held out (a .txt file given alone is cut at blank lines "
            "into documents of about 2000 characters)"
        )
    heldout = fractions < share
    if not heldout.any():
        heldout = fractions == lowest
    return np.asarray(heldout if not heldout.all() else fractions != highest)
