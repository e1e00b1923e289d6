"""Whether values are of the types that dataclasses state, for settings and records out of files.

A dataclass takes any value in any field, and a wrong one fails later and elsewhere: a whole number
in quotes, a list in place of a number, a number that is not finite.
"""

import dataclasses
import functools
import math
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from vasae_jax.utils.errors import UserError

MAX_WHOLE = 2**63
"""Whole numbers are below it: arrays hold no larger ones."""


def check_fields(value: Any, where: object) -> None:
    """Raise UserError unless every field of a dataclass, and of those in it, is of its type."""
    for name, wrong, hint in misfits(value):
        raise UserError(
            f"{where} has {name} {reprlib.repr(wrong)} ({type(wrong).__name__}); expected "
            f"{in_words(hint)}"
        )


def misfits(value: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The dotted name, the value and the type of each field of a dataclass that has another one."""
    kind: Any = type(value)
    for name, hint in _hints(kind).items():
        inner = getattr(value, name)
        if dataclasses.is_dataclass(hint) and type(inner) is hint:
            yield from misfits(inner, f"{prefix}{name}.")
        elif not fits(inner, hint):
            yield prefix + name, inner, hint


def fits(value: Any, hint: Any) -> bool:
    """Whether ``value`` is of the type ``hint``; an integer also serves as a float.

    A float is finite, and a whole number below MAX_WHOLE in size.
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return any(type(value) is type(option) and value == option for option in args)
    if origin is tuple:
        return isinstance(value, tuple) and all(fits(each, args[0]) for each in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            fits(key, args[0]) and fits(each, args[1]) for key, each in value.items()
        )
    if args:  # a union
        return any(fits(value, option) for option in args)
    if dataclasses.is_dataclass(hint):
        return type(value) is hint and not any(misfits(value))
    if hint is float:
        return isinstance(value, int | float) and _usable(value)
    return type(value) is hint and (hint is not int or _usable(value))


def in_words(hint: Any) -> str:
    """The type ``hint`` as an error says it."""
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    if get_origin(hint) is tuple:
        return f"a list of {in_words(get_args(hint)[0])}"
    if get_origin(hint) is Mapping:
        return f"an object of {in_words(get_args(hint)[1])}"
    if get_args(hint):
        return " or ".join(in_words(option) for option in get_args(hint))
    words = {type(None): "None", float: "a finite number", int: "a whole number", str: "text"}
    return words.get(hint, str(getattr(hint, "__name__", hint)))


def _usable(value: float) -> bool:
    if isinstance(value, bool):
        return False
    return abs(value) < MAX_WHOLE if isinstance(value, int) else math.isfinite(value)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {each.name: hints[each.name] for each in dataclasses.fields(kind) if each.init}
