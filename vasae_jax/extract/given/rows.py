"""Rows of windows of equal length, as another program left them."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vasae_jax.system.errors import UserError

Read = Callable[[int, int], np.ndarray]


@dataclass(frozen=True)
class GivenRows:
    """W windows of T rows of width d, and where to read them."""

    where: str
    """The source, for messages."""
    tokens: np.ndarray
    """int32 [W, T]"""
    docs: np.ndarray
    """int32 [W], the document of each window, ascending"""
    width: int
    read: Read
    """read(first, last): rows of windows first to last (exclusive), float [n, T, d]"""
    layer: int | None = None
    """The layer, where the source says so."""


def make_rows(
    where: str,
    shape: tuple[int, ...],
    read: Read,
    tokens: np.ndarray,
    docs: np.ndarray | None = None,
    layer: int | None = None,
) -> GivenRows:
    """Given rows, counted.

    Args:
        where: the source, for messages.
        shape: of the rows, [W, T, d].
        read: as :class:`GivenRows` has it.
        tokens: int [W, T].
        docs: int [W], ascending; without it each window is a document.
        layer: the layer, where the source says so.

    Raises:
        UserError: counts that do not agree, tokens that are none, documents out of order.
    """
    if len(shape) != 3 or 0 in shape:
        raise UserError(f"{where} has rows of shape {shape}; expected [windows, positions, width]")
    if tokens.shape != shape[:2] or not np.issubdtype(tokens.dtype, np.integer):
        raise UserError(
            f"{where} has tokens of shape {tokens.shape} and type {tokens.dtype} for rows of "
            f"shape {shape}; expected a whole number for each row"
        )
    docs = np.arange(shape[0]) if docs is None else docs
    if docs.shape != shape[:1] or (np.diff(docs) < 0).any():
        raise UserError(
            f"{where} has documents of shape {docs.shape}; expected an ascending number for each "
            f"of the {shape[0]} windows"
        )
    return GivenRows(where, tokens.astype(np.int32), docs.astype(np.int32), shape[2], read, layer)


def digest(rows: GivenRows) -> str:
    """SHA-256 over the tokens and documents: what stands for the text, which is not known."""
    found = hashlib.sha256(np.ascontiguousarray(rows.tokens).tobytes())
    found.update(np.ascontiguousarray(rows.docs).tobytes())
    return found.hexdigest()


def held_out(docs: np.ndarray, share: float) -> np.ndarray:
    """bool [W]: every so-many-th document of ``docs`` [W], such that ``share`` of them are."""
    number = np.unique(docs, return_inverse=True)[1]
    chosen: np.ndarray = np.floor((number + 1) * share) > np.floor(number * share)
    return chosen
