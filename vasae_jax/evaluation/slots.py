"""Programs with room for as many active features as rows have."""

from collections.abc import Callable
from typing import Any

import jax

FIRST = 256
"""Slots of a row at first, where thresholds decide what fires."""


class Slots:
    """A program for each number of slots that active features need.

    k slots are enough for TopK. Where thresholds decide, any number of features may fire on a
    row: slots begin at FIRST and are doubled when those of some row are full.
    """

    def __init__(
        self,
        make: Callable[[int], Callable[..., Any]],
        values: Callable[[Any], Any],
        k: int,
        thresholds: bool,
    ) -> None:
        """Begin with no program compiled.

        Args:
            make: the program with so many slots.
            values: the activations [B, slots] in what a program gives, largest first.
            k: the most features that may fire on a row.
            thresholds: whether they decide.
        """
        self._make, self._values, self._most = make, values, k
        self._slots = min(k, FIRST) if thresholds else k
        self._programs: dict[int, Callable[..., Any]] = {}

    def __call__(self, *inputs: Any) -> Any:
        """Begin to run the program on ``inputs``."""
        if self._slots not in self._programs:
            self._programs[self._slots] = self._make(self._slots)
        return self._programs[self._slots](*inputs)

    def settled(self, result: Any, *inputs: Any) -> Any:
        """``result`` of ``inputs`` in NumPy, run again where its slots were too few."""
        found = jax.device_get(result)
        while not self._whole(self._values(found)):
            found = jax.device_get(self(*inputs))
        return found

    def _whole(self, values: Any) -> bool:
        slots: int = values.shape[1]
        if slots >= self._most or not (values[:, -1] > 0).any():
            return True
        self._slots = max(self._slots, min(2 * slots, self._most))
        return False
