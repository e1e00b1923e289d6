"""What is published of a machine's places: base names, which say nothing of users and projects.

Digests beside them tell which model, text and cache are meant. A run's own ``config.json`` and
logs, and a cache's manifest, are kept with what they are about and have whole paths.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]*[A-Za-z0-9][\w.-]*", re.ASCII)
"""OWNER/NAME of a repository on the Hugging Face hub."""
_HUB_TEXT = re.compile(r"hf:[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*){0,2}", re.ASCII)
_ROWS_OF = "rows of "
"""How a manifest begins the source of rows that another program stored."""
_LOCAL = re.compile(r"[/\\~.]|[A-Za-z]:[/\\]|\w+://")
"""How a path or a URL begins, and no name of a repository."""


def base_name(place: str) -> str:
    """The last part of a path or a URL."""
    return re.split(r"[/\\]+", place.rstrip("/\\"))[-1]


def public_model(name: str) -> str:
    """A model's name: that of a repository on the hub as it is, of anything else the last part."""
    return name if HUB_NAME.fullmatch(name) else base_name(name)


def public_text(source: str) -> str:
    """Where a text is from: a dataset of the hub as it is, of anything else the last part."""
    if source.startswith(_ROWS_OF):
        return _ROWS_OF + base_name(source.removeprefix(_ROWS_OF))
    return source if _HUB_TEXT.fullmatch(source) else base_name(source)


def public_import(source: str) -> str:
    """Where an imported SAE is from: a folder of a repository as it is, else the last part."""
    return base_name(source) if _LOCAL.match(source) else source


def public_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A run's settings by section, with base names for its places and without its project."""
    return _replaced(settings, {"data": {"cache": base_name}, "run": _RUN})


def public_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a dictionary's meta.json, whichever version of the program made it."""
    return _replaced(meta, _META)


def _replaced(value: Mapping[str, Any], rules: Mapping[str, Any]) -> dict[str, Any]:
    """``value`` with the texts at ``rules`` made public; what is of another type stays."""
    replaced = dict(value)
    for key, rule in rules.items():
        part = replaced.get(key)
        if isinstance(part, Mapping) and isinstance(rule, Mapping):
            replaced[key] = _replaced(part, rule)
        elif isinstance(part, str) and not isinstance(rule, Mapping):
            replaced[key] = rule(part)
    return replaced


def _nothing(_: str) -> str:
    return ""


_RUN: dict[str, Callable[[str], str]] = {"out": base_name, "wandb": _nothing}
_META: dict[str, Any] = {
    "provenance": {
        "model": {"id": public_model},
        "text": {"source": public_text},
        "imported": {"model": public_model, "source": public_import},
    },
    "config": {"data": {"cache": base_name}, "run": _RUN},
}
