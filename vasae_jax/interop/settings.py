"""Allow-lists of other libraries' settings: an SAE is read only if every setting is understood.

A library lists the keys of its files, each with the values that mean what is computed here. Another
value is refused, and so is a key that is not listed: it might change the function.
"""

import json
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vasae_jax.utils.errors import UserError


@dataclass(frozen=True)
class Setting:
    """What is known of one key."""

    expected: str
    """The values that are read, in words."""
    allows: Callable[[Any], bool]
    note: str = ""
    """What ``remarkable`` values mean to whoever uses the SAE; the value replaces ``{}``."""
    remarkable: Callable[[Any], bool] = bool

    def noted(self, note: str, remarkable: Callable[[Any], bool] = bool) -> "Setting":
        """The same setting; of values that are ``remarkable`` a reader is told ``note``."""
        return replace(self, note=note, remarkable=remarkable)


Settings = Mapping[str, Setting]


def only(*values: Any) -> Setting:
    """A setting that is read with just these values; ``true`` and 1 are different ones."""
    words = ", ".join(one if isinstance(one, str) else json.dumps(one) for one in values)
    words = words if len(values) == 1 else f"one of {words}"
    return Setting(words, lambda v: any(type(v) is type(one) and v == one for one in values))


def is_whole(value: Any) -> bool:
    """Whether ``value`` is a whole number from 0; 5.0 is one, and ``true`` is not."""
    return type(value) in (int, float) and value >= 0 and value == value // 1


ANY = Setting("anything", lambda value: True)
"""A setting of the training or of its record, which does not change the function."""
FLAG = only(True, False)
WHOLE = Setting("a whole number from 0", is_whole)
WHOLE_OR_NONE = Setting("a whole number or null", lambda v: v is None or is_whole(v))
TEXT_OR_NONE = Setting("text or null", lambda value: value is None or isinstance(value, str))
TABLE = Setting("an object", lambda value: isinstance(value, dict))
TABLE_OR_NONE = Setting("an object or null", lambda v: v is None or isinstance(v, dict))


def harmless(names: str) -> dict[str, Setting]:
    """ANY for each of the ``names``, which are separated by spaces."""
    return dict.fromkeys(names.split(), ANY)


def check_settings(config: Mapping[str, Any], settings: Settings, where: object) -> tuple[str, ...]:
    """Notes for whoever uses the SAE.

    Args:
        config: what the file says.
        settings: the keys that are known.
        where: the file, for messages.

    Raises:
        UserError: a key that is not known, or a value that is not read.
    """
    notes = []
    for key, value in config.items():
        shown = reprlib.repr(value)
        if key not in settings:
            raise UserError(
                f"{where} has {key} {shown}, which is not known here and may change what the SAE "
                "computes; expected only settings that are known"
            )
        setting = settings[key]
        if not setting.allows(value):
            raise UserError(f"{where} has {key} {shown}; expected {setting.expected}")
        if setting.note and setting.remarkable(value):
            notes.append(setting.note.replace("{}", shown))
    return tuple(notes)


def rename_settings(
    config: Mapping[str, Any], names: Mapping[str, str], where: object
) -> dict[str, Any]:
    """``config`` with the old names of settings replaced by those that ``names`` maps them to.

    Raises:
        UserError: a setting has one value under its old name and another under its new one.
    """
    renamed = {key: value for key, value in config.items() if key not in names}
    for old, new in names.items():
        if old in config and renamed.setdefault(new, config[old]) != config[old]:
            raise UserError(
                f"{where} has {old} {reprlib.repr(config[old])} and {new} "
                f"{reprlib.repr(renamed[new])}; expected one value"
            )
    return renamed


def check_sizes(
    config: Mapping[str, Any], W_dec: np.ndarray, d_in: str, d_sae: str, where: object
) -> None:
    """Raise UserError unless the sizes that the file states, if any, are those of the weights.

    ``d_in`` and ``d_sae`` are the keys; ``W_dec`` is [d_sae, d_in]. 0 stands for no statement.
    """
    for key, size in zip((d_sae, d_in), W_dec.shape, strict=False):
        if config.get(key) and config[key] != size:
            raise UserError(
                f"{where} has {key} {config[key]}; expected {size}, as its weights have"
            )
