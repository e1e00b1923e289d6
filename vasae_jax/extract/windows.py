"""Token windows: documents tokenised, cut to the context length, split and packed into slots.

This happens before the model's weights are read, so that counts are exact and an empty text is
refused early. The same text always gives the same windows in the same order. The tokens take
4 bytes a row in memory, against 2 * d_model * sites on disk.
"""

import bisect
import hashlib
import math
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain

import numpy as np

from vasae_jax.extract.text import Text
from vasae_jax.utils.errors import UserError

SHORTEST = 2
"""Tokens of the shortest window; a slot with less room is full."""
STRETCH = 512
"""Full slots in the stretch of text that is packed at once; its rows may be computed early."""
SPARE = 0.004
"""Share of places that an incomplete last batch may leave empty."""


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
        chosen = self.of_split(split)
        return int(self.lengths[chosen].sum()), len(np.unique(self.docs[chosen]))


def make_windows(
    documents: Iterable[Text],
    encode: Callable[[Text], list[int]],
    context_length: int,
    *,
    bos_id: int | None = None,
    heldout_share: float = 0.1,
    max_rows: int | None = None,
    report: Callable[[int], None] = lambda rows: None,
) -> Windows:
    """Tokenise ``documents`` and cut each into windows of at most ``context_length`` tokens.

    A window holds tokens of one document only, after ``bos_id`` unless that is None. Where a
    document has ``bos_id`` itself, a window begins there, and it gets no second one. Windows of
    fewer than 2 tokens are dropped. With ``max_rows`` reading stops before the first window that
    would exceed it.

    Args:
        documents: texts, or token ids, in source order; a document's index is its place among
            these.
        encode: the token ids of a document; those of text without special tokens.
        context_length: tokens in the longest window, BOS included; at least 2.
        bos_id: token put before each window, or None.
        heldout_share: share of documents to hold out, over 0 and below 1.
        max_rows: the most rows (tokens) to keep, or None for all.
        report: called with the rows so far after each document.

    Raises:
        UserError: no document has 2 tokens, none fits into ``max_rows``, only one split would
            have documents, or ``encode`` refuses a document, which is then named.
    """
    tokens, lengths, docs = array("i"), array("q"), array("i")
    fractions: list[float] = []
    sha, prefix = hashlib.sha256(), [] if bos_id is None else [bos_id]
    for index, text in enumerate(documents):
        left = math.inf if max_rows is None else max_rows - len(tokens)
        try:
            ids = encode(text)
        except UserError as error:
            raise UserError(f"document {index} (from 0): {error}") from error
        windows, full = _cut(ids, prefix, context_length, left)
        data = document_bytes(text)
        sha.update(len(data).to_bytes(8, "little") + data)
        tokens.extend(chain.from_iterable(windows))
        lengths.extend(map(len, windows))
        docs.extend([index] * len(windows))
        fractions.extend([document_fraction(data)] * len(windows))
        if full and not docs:
            raise UserError(f"max rows is {max_rows}; expected room for one window at least")
        report(len(tokens))
        if full:
            break
    if not docs:
        raise UserError("the text is empty: no document has 2 tokens; expected some text")
    return Windows(
        tokens=np.array(tokens, np.int32),
        starts=np.concatenate([[0], np.cumsum(np.array(lengths, np.int64))]),
        docs=np.array(docs, np.int32),
        heldout=_heldout(np.array(fractions), heldout_share),
        context_length=context_length,
        bos=bool(prefix),
        digest=sha.hexdigest(),
    )


def document_bytes(document: Text) -> bytes:
    """What the digest of a text and a document's split depend on: UTF-8, or ids as int64."""
    if isinstance(document, str):
        return document.encode("utf-8", "surrogatepass")
    return np.asarray(document, "<i8").tobytes()


def document_fraction(data: bytes) -> float:
    """The first 8 bytes of a document's SHA-256 as a fraction in [0, 1].

    It decides the document's split, which so depends on the text alone.
    """
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big") / 2.0**64


def _cut(
    ids: list[int], prefix: list[int], context_length: int, left: float
) -> tuple[list[list[int]], bool]:
    """The windows of a document that fit into the ``left`` rows, and whether some do not."""
    step = context_length - len(prefix)
    parts = _split(ids, prefix[0]) if prefix else [ids]
    windows = [
        prefix + part[first : first + step] for part in parts for first in range(0, len(part), step)
    ]
    windows = [window for window in windows if len(window) >= SHORTEST]
    ends = accumulate(map(len, windows))
    fitting = [window for window, end in zip(windows, ends, strict=True) if end <= left]
    return fitting, len(fitting) < len(windows)


def _split(ids: list[int], token: int) -> list[list[int]]:
    """The parts of ``ids`` before, between and after each ``token``, which is left out."""
    if token not in ids:
        return [ids]
    ends = [place for place, found in enumerate(ids) if found == token]
    firsts = [0, *(end + 1 for end in ends)]
    return [ids[first:end] for first, end in zip(firsts, [*ends, len(ids)], strict=True)]


def _heldout(fractions: np.ndarray, share: float) -> np.ndarray:
    """Which windows are held out: fractions below ``share``, moved so that both splits exist."""
    if (fractions == fractions[0]).all():
        raise UserError(
            "the text has one distinct document with 2 tokens or more; expected at least two, "
            "so that one can be held out (a single .txt file is cut at blank lines "
            "into documents of about 2000 characters)"
        )
    heldout = fractions < share
    if not heldout.any():
        heldout = fractions == fractions.min()
    return np.asarray(heldout if not heldout.all() else fractions != fractions.max())


# Packing of short windows into shared slots.


@dataclass(frozen=True)
class Packing:
    """Slots of equal length in the order of their first windows.

    Attributes:
        slot: int64 [W], the slot of each window.
        place: int64 [W], where in its slot each window begins.
        slots: how many there are.
    """

    slot: np.ndarray
    place: np.ndarray
    slots: int


def unpacked(windows: int) -> Packing:
    """One window in each slot."""
    return Packing(np.arange(windows), np.zeros(windows, np.int64), windows)


def pack(lengths: np.ndarray, context_length: int, stretch_slots: int = STRETCH) -> Packing:
    """Best fit in descending length, within stretches of text of ``stretch_slots`` full slots.

    Slots are in the order of their first windows, so all windows before the first of a slot are
    in earlier slots.

    Args:
        lengths: int [W], from SHORTEST to ``context_length`` tokens.
        context_length: places in a slot.
        stretch_slots: full slots in a stretch of text.
    """
    slot, place, count = np.zeros(len(lengths), np.int64), np.zeros(len(lengths), np.int64), 0
    stretch = (np.cumsum(lengths) - 1) // (stretch_slots * context_length)
    for cut in np.split(np.arange(len(lengths)), np.flatnonzero(np.diff(stretch)) + 1):
        # Ascending: the room left, minus the order in which slots came to have it, the slot.
        free: list[tuple[int, int, int]] = []
        for order, window in enumerate(cut[np.argsort(-lengths[cut], kind="stable")].tolist()):
            length = int(lengths[window])
            at = bisect.bisect_left(free, (length,))
            if at < len(free):
                room, _, chosen = free.pop(at)
            else:
                room, chosen, count = context_length, count, count + 1
            slot[window], place[window] = chosen, context_length - room
            if room - length >= SHORTEST:
                bisect.insort(free, (room - length, -order, chosen))
    opened = np.full(count, len(lengths))
    np.minimum.at(opened, slot, np.arange(len(lengths)))
    return Packing(np.argsort(np.argsort(opened))[slot], place, count)


def batch_size(slots: int, most: int, multiple: int = 1) -> int:
    """The number of slots in a batch, chosen so that the last batch is nearly full.

    This is ``most`` if that leaves at most SPARE of all places empty; otherwise the size down to
    half of it that leaves the fewest.

    Args:
        slots: of the whole text.
        most: slots in one batch.
        multiple: the size is a multiple of it where ``most`` allows.
    """
    if most < multiple:
        return most
    most = min(most, -(-slots // multiple) * multiple)
    sizes = range(most - most % multiple, most // 2, -multiple)
    empty = {size: -slots % size for size in sizes}
    spare = int(slots * SPARE)
    return min(empty, key=lambda size: (max(empty[size] - spare, 0), -size))
