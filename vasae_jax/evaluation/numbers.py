"""The numbers of a JSON object under one name each."""

from collections.abc import Mapping
from typing import Any


def numbers(value: Mapping[str, Any], within: str = "") -> dict[str, float]:
    """Numbers of a JSON object, those of objects in lists by what these call themselves."""
    found: dict[str, float] = {}
    for key, one in value.items():
        name = f"{within}{key}"
        if isinstance(one, Mapping):
            found |= numbers(one, f"{name}.")
        elif isinstance(one, list | tuple) and one and isinstance(one[0], Mapping):
            for number, each in enumerate(one):
                title = str(each.get("group", each.get("anchor", number))).replace(" ", "_")
                found |= numbers(each, f"{name}.{title}.")
        elif isinstance(one, int | float) and not isinstance(one, bool):
            found[name] = one
    return found
