"""Settings of a point, checked by name and type before anything starts."""

import difflib
from dataclasses import replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from vasae_jax.config import Config
from vasae_jax.config.overrides import flatten
from vasae_jax.sweep.grid import Point
from vasae_jax.system.errors import UserError

REFUSED = ("run.out", "run.overwrite", "run.fall_back")
"""Settings that a sweep sets itself, or that are no part of a run."""


def applied(base: Config, point: Point, number: int) -> Config:
    """``base`` with the settings of point ``number``.

    Raises:
        UserError: an unknown setting (with the nearest one) or a value of a wrong type.
    """
    config = base
    for name, value in point.items():
        hint = _hint(name, number)
        if not fits(value, hint):
            raise UserError(
                f"point {number} sets {name} to {value!r} ({type(value).__name__}); "
                f"expected {_said(hint)}"
            )
        section, field = name.split(".")
        changed = replace(getattr(config, section), **{field: value})
        config = replace(config, **{section: changed})
    return config


def fits(value: Any, hint: Any) -> bool:
    """Whether ``value`` is of the type ``hint``; a whole number also serves as a float."""
    if get_origin(hint) is Literal:
        return any(type(value) is type(one) and value == one for one in get_args(hint))
    if get_args(hint):  # a union
        return any(fits(value, one) for one in get_args(hint))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is hint


def _hint(name: str, number: int) -> Any:
    known = flatten(Config())
    if name in REFUSED:
        raise UserError(f"point {number} sets {name}; expected a setting that shapes its run")
    if name not in known:
        near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)
        last = [one for one in known if one.split(".")[1] == name.split(".")[-1]]
        raise UserError(
            f"point {number} sets {name}, which is no setting; did you mean {(last or near)[0]}?"
        )
    section, field = name.split(".")
    return get_type_hints(type(getattr(Config(), section)))[field]


def _said(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    if get_args(hint):
        return " or ".join(_said(one) for one in get_args(hint))
    return "None" if hint is type(None) else str(hint.__name__)
