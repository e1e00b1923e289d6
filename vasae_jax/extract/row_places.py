"""Which rows of another program are stored, and the position of each in its window.

A row's position decides whether it is masked (``data.skip_positions``) and which rows are its
neighbours. It is stored as ``~position`` if the rows beside it are not of its window, and as
``~(2**31 - 1)`` if, besides, it is not known.
"""

from dataclasses import dataclass

import numpy as np

from vasae_jax.cache.manifest import NOT_KNOWN, SPLITS
from vasae_jax.extract.external_rows import ExternalRows
from vasae_jax.extract.model import special_ids
from vasae_jax.lm.tokenizer import Tokenizer
from vasae_jax.utils.errors import UserError

UNKNOWN = ~np.int32(NOT_KNOWN)
"""The stored position of a row that has none."""


@dataclass(frozen=True)
class Order:
    """How rows without positions lie, where tokens and mask do not tell.

    Attributes:
        first_position: of the first row of each window; None: 0, unless that is in doubt.
        shuffled: rows are in no order, so none has neighbours.
    """

    first_position: int | None = None
    shuffled: bool = False


IN_ORDER = Order()


@dataclass(frozen=True)
class Placed:
    """Of every row [W, T] of another program:

    Attributes:
        keep: bool, whether it is stored; padding is not.
        positions: int32, as a cache stores them.
        docs: int32, the number of its document.
        heldout: bool, whether that document is held out.
        bos: whether a BOS token begins each window.
    """

    keep: np.ndarray
    positions: np.ndarray
    docs: np.ndarray
    heldout: np.ndarray
    bos: bool

    @property
    def plain(self) -> bool:
        """Whether all rows are stored, and each window begins at position 0 and goes on."""
        return bool(self.keep.all() and (self.positions == np.arange(self.keep.shape[1])).all())


def place_rows(rows: ExternalRows, tokenizer: Tokenizer, share: float, order: Order) -> Placed:
    """Place every row; evenly spaced documents, ``share`` of them, are held out.

    Positions are those of ``rows``. Without these a window begins with the first row of each of
    the source's windows that is not padding, and at each BOS.

    Raises:
        UserError: positions that cannot be known, padding without a mask, documents or
            positions out of order.
    """
    _check_order(rows, order)
    if rows.mask is None and not order.shuffled:
        _refuse_padding(rows, tokenizer)
    keep = np.ones(rows.shape[:2], np.bool_) if rows.mask is None else rows.mask
    docs = _documents(rows, keep, order)
    heldout = np.broadcast_to(held_out(docs, share), keep.shape)
    docs = np.broadcast_to(docs, keep.shape)
    is_bos = keep & (rows.tokens == (-1 if tokenizer.bos_id is None else tokenizer.bos_id))
    first = keep & (np.cumsum(keep, axis=1, dtype=np.int32) == 1)
    if order.shuffled:
        known = UNKNOWN if rows.positions is None else ~rows.positions
        positions = np.broadcast_to(np.asarray(known, np.int32), keep.shape)
        bos = tokenizer.add_bos or bool(is_bos.any())
    elif rows.positions is not None:
        positions = _separated(rows.positions, _new_windows(rows, keep, docs), keep, heldout)
        bos = bool((is_bos | (positions != 0))[keep].all() and is_bos.any())
    else:
        _refuse_doubt(rows, order, tokenizer, is_bos, first)
        begin = _begins(rows, keep, docs, is_bos, first)
        positions = _counted(begin, first & ~is_bos, order.first_position or 0)
        if order.first_position:
            positions = _separated(positions, begin, keep, heldout)
        sliced = bool(order.first_position) and tokenizer.add_bos
        bos = sliced or bool(is_bos[first].all())
    return Placed(keep, positions, docs, heldout, bos)


def held_out(docs: np.ndarray, share: float) -> np.ndarray:
    """bool, in the shape of ``docs``: evenly spaced documents, ``share`` of them."""
    number = np.unique(docs, return_inverse=True)[1].reshape(docs.shape)
    chosen: np.ndarray = np.floor((number + 1) * share) > np.floor(number * share)
    return chosen


def _check_order(rows: ExternalRows, order: Order) -> None:
    first = order.first_position
    if first is not None and first < 0:
        raise UserError(f"--first-position is {first}; expected 0 or more")
    if first is not None and (order.shuffled or rows.positions is not None):
        other = "--shuffled" if order.shuffled else f"the positions of {rows.source}"
        raise UserError(f"--first-position is given beside {other}; expected one of the two")


def _refuse_padding(rows: ExternalRows, tokenizer: Tokenizer) -> None:
    """Raise UserError if windows begin or end in a special token that is repeated."""
    tokens = rows.tokens
    if tokens.shape[1] < 3:
        return
    special = sorted(special_ids(tokenizer))
    ends = tokens[:, -1] == tokens[:, -2]
    begins = tokens[:, 0] == tokens[:, 1]
    if tokenizer.bos_id is not None:  # two of these are known from tokenisers that add one twice
        begins &= (tokens[:, 0] != tokenizer.bos_id) | (tokens[:, 2] == tokenizer.bos_id)
    padded = (ends & np.isin(tokens[:, -1], special)) | (begins & np.isin(tokens[:, 0], special))
    if padded.any():
        raise UserError(
            f"{rows.source} has {int(padded.sum())} windows that begin or end in a repeated "
            f"special token, the first at {int(padded.argmax())}, and no mask; expected a mask "
            "[windows, positions] that is 0 at padding and 1 at text"
        )


def _documents(rows: ExternalRows, keep: np.ndarray, order: Order) -> np.ndarray:
    """int32 [W, 1] or [W, T]: the document of each window or row."""
    count, length = keep.shape
    docs = rows.docs
    if docs is None and order.shuffled:
        return np.arange(count * length, dtype=np.int32).reshape(keep.shape)
    if docs is None and rows.positions is not None and length == 1:
        begin = np.diff(rows.positions[:, 0], prepend=-2) != 1
        return np.cumsum(begin, dtype=np.int32)[:, None] - 1
    if docs is None:
        return np.arange(count, dtype=np.int32)[:, None]
    docs = docs[:, None] if docs.ndim == 1 else docs
    if not order.shuffled and (np.diff(np.broadcast_to(docs, keep.shape)[keep]) < 0).any():
        raise UserError(
            f"{rows.source} has documents in another order; expected an ascending number for "
            "each window or row, or --shuffled for rows in no order"
        )
    return docs


def _refuse_doubt(
    rows: ExternalRows, order: Order, tokenizer: Tokenizer, is_bos: np.ndarray, first: np.ndarray
) -> None:
    """Raise UserError if the tokens leave it open where the source's windows begin."""
    if order.first_position is not None:
        return
    within = is_bos & ~first
    doubt = ""
    if within.any() and not is_bos[first].all():
        doubt = f"{int(within.sum())} BOS tokens within windows of which some begin without one"
    elif (tokenizer.add_bos or rows.expects_bos) and not is_bos.any():
        doubt = "no BOS token, which its model puts before every text"
    if doubt:
        raise UserError(
            f"{rows.source} has {doubt}, so its rows' positions are not known; expected an array "
            "of positions, --first-position 0 if its windows are as the model saw them, 1 if the "
            "first row of each was left out, or --shuffled"
        )


def _begins(
    rows: ExternalRows, keep: np.ndarray, docs: np.ndarray, is_bos: np.ndarray, first: np.ndarray
) -> np.ndarray:
    """bool [W, T]: the rows at which a window begins; UserError if others might."""
    before = np.pad(keep[:, :-1], ((0, 0), (1, 0)))
    other = np.pad(docs[:, 1:] != docs[:, :-1], ((0, 0), (1, 0)))
    doubt = keep & ~first & ~is_bos & (~before | other)
    if doubt.any():
        window, place = (int(axis[0]) for axis in np.nonzero(doubt))
        what = "another document" if before[window, place] else "text after padding"
        raise UserError(
            f"{rows.source} has {what} at row {place} of window {window}, without a BOS; expected "
            "an array of positions beside it"
        )
    return np.asarray(first | is_bos)


def _counted(begin: np.ndarray, shifted: np.ndarray, first_position: int) -> np.ndarray:
    """int32 [W, T]: places since the last ``begin``, from ``first_position`` where ``shifted``."""
    place = np.broadcast_to(np.arange(begin.shape[1], dtype=np.int32), begin.shape)
    last = np.maximum.accumulate(np.where(begin, place, 0), axis=1)
    positions = place - last
    if first_position:
        positions += np.take_along_axis(shifted, last, axis=1) * np.int32(first_position)
    return positions


def _new_windows(rows: ExternalRows, keep: np.ndarray, docs: np.ndarray) -> np.ndarray:
    """bool [W, T]: rows that follow those before them in neither the source's window nor document.

    Raises:
        UserError: a position that the rows before it do not lead to.
    """
    at = np.flatnonzero(keep)
    window = at // keep.shape[1]
    position = np.asarray(rows.positions).reshape(-1)[at]
    other_doc = np.diff(docs.reshape(-1)[at]) != 0
    other_window = np.diff(window) != 0
    apart = other_window if keep.shape[1] > 1 else other_doc & (rows.docs is not None)
    jumps = (np.diff(position) > 1) & (np.diff(at) == 1) & ~apart
    if jumps.any():
        row = int(at[1:][jumps][0])
        raise UserError(
            f"{rows.source} has position {int(position[1:][jumps][0])} after "
            f"{int(position[:-1][jumps][0])} (row {row}, from 0); expected each window's rows in "
            "order and without gaps, or --shuffled for rows in no order"
        )
    new = np.zeros(keep.size, np.bool_)
    new[at[1:]] = other_window & other_doc
    return new.reshape(keep.shape)


def _separated(
    positions: np.ndarray, begin: np.ndarray, keep: np.ndarray, heldout: np.ndarray
) -> np.ndarray:
    """``positions`` [W, T], with ``~position`` in windows that would seem to go on from others.

    Rows of a split are taken for one window if their positions differ as their places do. Windows
    that begin at 0 are never mistaken so.
    """
    out = positions.astype(np.int32).reshape(-1)
    for split in SPLITS:
        at = np.flatnonzero(keep & (heldout == (split == "heldout")))
        if not len(at):
            continue
        position = out[at]
        starts = begin.reshape(-1)[at] | (np.diff(position, prepend=-2) != 1)
        starts[0] = True
        number, firsts = np.cumsum(starts) - 1, np.flatnonzero(starts)
        alone = np.ones(len(firsts), np.bool_)
        alone[np.unique(firsts - position[firsts], return_index=True)[1]] = False
        out[at] = np.where(alone[number], ~position, position)
    return out.reshape(positions.shape)
