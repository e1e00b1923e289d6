"""Typed look-ups in a ``config.json``."""

from collections.abc import Mapping
from typing import Any

from vasae_jax.lm.rope import inverse_frequencies
from vasae_jax.system.errors import UserError

LARGEST_HEAD = 2**16
"""Above any head that there is: a file may not make us count to what it says."""


class Reader:
    """Typed look-ups that name the file and the key when a value cannot be used."""

    def __init__(self, config: Mapping[str, Any], where: str):
        self.config = config
        self.where = where

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number above 0."""
        value = self.config.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{self.where} has {key} {value!r}; expected a whole number above 0")
        return value

    def number(self, key: str, *, default: float) -> float:
        """A number."""
        value = self.config.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{self.where} has {key} {value!r}; expected a number")
        return float(value)

    def cap(self, key: str, *, default: float | None) -> float | None:
        """A number above 0, or null."""
        if self.config.get(key, default) is None:
            return None
        value = self.number(key, default=0.0 if default is None else default)
        if value <= 0:
            raise UserError(f"{self.where} has {key} {value!r}; expected a number above 0")
        return value

    def table(self, key: str) -> dict[str, Any]:
        """An object, empty where there is none."""
        value = self.config.get(key) or {}
        if not isinstance(value, dict):
            raise UserError(f"{self.where} has {key} {value!r}; expected an object")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """True or false."""
        value = self.config.get(key, default)
        if not isinstance(value, bool):
            raise UserError(f"{self.where} has {key} {value!r}; expected true or false")
        return value

    def refuse(self, key: str, *, needed: bool) -> None:
        """Raise UserError unless a flag is as it must be (and is where it is not given)."""
        if self.flag(key, default=needed) != needed:
            raise UserError(
                f"{self.where} has {key} {not needed}, which is not supported; expected {needed}"
            )


def rotary(
    reader: Reader, turned: int, scaling: Mapping[str, Any], theta: float
) -> tuple[float, ...]:
    """Angles of the ``turned`` first numbers of a head; see :func:`inverse_frequencies`.

    ``theta`` is the base where ``scaling`` does not have it.

    Raises:
        UserError: an odd number, an unknown scaling or a setting that cannot be used.
    """
    if turned % 2 or not 0 < turned <= LARGEST_HEAD:
        raise UserError(
            f"{reader.where} has heads of size {turned}; expected an even number up to "
            f"{LARGEST_HEAD}"
        )
    base = Reader(scaling, reader.where).number("rope_theta", default=theta)
    return inverse_frequencies(turned, base, scaling, reader.where)
