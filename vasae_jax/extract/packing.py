"""Which slot each window takes, and where in it: windows shorter than a slot share one."""

from dataclasses import dataclass

import numpy as np

BLOCK = 512
"""Slots that a stretch of text would fill: rows of as many at most wait for their turn."""
SHORTEST = 2
"""Tokens of the shortest window there is: a slot with less room is full."""
SPARE = 0.004
"""Share of places that an incomplete last batch may leave empty."""


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


def alone(windows: int) -> Packing:
    """Every window in a slot of its own."""
    return Packing(np.arange(windows), np.zeros(windows, np.int64), windows)


def pack(lengths: np.ndarray, context_length: int, block: int = BLOCK) -> Packing:
    """Best fit by falling length, among the windows of each stretch of ``block`` full slots.

    Slots come in the order of their first windows, so all windows before the first of a slot lie
    in earlier slots.

    Args:
        lengths: int [W], from SHORTEST to ``context_length`` tokens.
        context_length: places in a slot.
        block: full slots in a stretch of text.
    """
    slot, place, count = np.zeros(len(lengths), np.int64), np.zeros(len(lengths), np.int64), 0
    stretch = (np.cumsum(lengths) - 1) // (block * context_length)
    for cut in np.split(np.arange(len(lengths)), np.flatnonzero(np.diff(stretch)) + 1):
        rooms = _Rooms(context_length)
        for window in cut[np.argsort(-lengths[cut], kind="stable")].tolist():
            length = int(lengths[window])
            room, found = rooms.take(length)
            if found is None:
                room, found, count = context_length, count, count + 1
            slot[window], place[window] = found, context_length - room
            rooms.put(room - length, found)
    opened = np.full(count, len(lengths))
    np.minimum.at(opened, slot, np.arange(len(lengths)))
    return Packing(np.argsort(np.argsort(opened))[slot], place, count)


class _Rooms:
    """Slots by the room that is left in them; a bit of ``_some`` for each room that one has."""

    def __init__(self, most: int) -> None:
        self._slots: list[list[int]] = [[] for _ in range(most + 1)]
        self._some = 0

    def put(self, room: int, slot: int) -> None:
        """Note what is left in a slot."""
        if room >= SHORTEST:
            self._slots[room].append(slot)
            self._some |= 1 << room

    def take(self, length: int) -> tuple[int, int | None]:
        """The least room of ``length`` or more that a slot has, and that slot."""
        larger = self._some >> length
        if not larger:
            return 0, None
        room = length + (larger & -larger).bit_length() - 1
        found = self._slots[room].pop()
        if not self._slots[room]:
            self._some &= ~(1 << room)
        return room, found


def even_size(slots: int, most: int, multiple: int = 1) -> int:
    """Slots in each of equal batches, so that the last batch is nearly full.

    The most, where that leaves at most SPARE of all places empty; else what leaves fewest, down
    to half of it.

    Args:
        slots: of the text.
        most: of one batch.
        multiple: the size is a multiple of it where ``most`` allows.
    """
    if most < multiple:
        return most
    most = min(most, -(-slots // multiple) * multiple)
    sizes = range(most - most % multiple, most // 2, -multiple)
    empty = {size: -slots % size for size in sizes}
    spare = int(slots * SPARE)
    return min(empty, key=lambda size: (max(empty[size] - spare, 0), -size))
