"""Which of several ways is fastest on this machine, measured once for its kind of processor."""

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
from jaxlib import version as jaxlib_version

from vasae_jax.distributed.compilation import processor_digest
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import default_cache, write_json

SECONDS = 0.3
"""What measuring takes, beside compiling and the turns that are under way."""
LEAST_TURNS = 3


class Fastest(NamedTuple):
    """An answer."""

    name: str
    """of the fastest way"""
    seconds: dict[str, float]
    """of each way, its fastest turn"""

    def __str__(self) -> str:
        times = ", ".join(f"{name} {1e3 * taken:.1f} ms" for name, taken in self.seconds.items())
        return f"{self.name} ({times})"


def fastest(question: str, ways: Callable[[], Mapping[str, Callable[[], jax.Array]]]) -> Fastest:
    """The fastest of ``ways``, as kept under ``question`` or else measured and kept.

    The ways take turns, so that a machine whose speed drifts favours none, and the fastest turn
    of each counts: others may use the machine. ``ways`` are made only where they are measured.
    """
    key = f"{question}, jaxlib {jaxlib_version.__version__}"
    file = default_cache() / "measured" / f"{processor_digest()}.json"
    known = _read(file)
    with contextlib.suppress(KeyError, TypeError, ValueError):
        found = {str(name): float(taken) for name, taken in known[key].items()}
        return Fastest(min(found, key=found.__getitem__), found)
    seconds = _measure(ways())
    with contextlib.suppress(UserError):  # what cannot be kept is measured again
        write_json(file, known | {key: seconds})
    return Fastest(min(seconds, key=seconds.__getitem__), seconds)


def _measure(ways: Mapping[str, Callable[[], jax.Array]]) -> dict[str, float]:
    for way in ways.values():
        jax.block_until_ready(way())  # compiled, and its memory touched
    best, turns, began = dict.fromkeys(ways, float("inf")), 0, time.perf_counter()
    while turns < LEAST_TURNS or time.perf_counter() - began < SECONDS:
        for name, way in ways.items():
            start = time.perf_counter()
            jax.block_until_ready(way())
            best[name] = min(best[name], time.perf_counter() - start)
        turns += 1
    return best


def _read(file: Path) -> dict[str, dict[str, float]]:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
