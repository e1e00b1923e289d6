"""Measure once which of several implementations is fastest on this machine, and remember it."""

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
from jaxlib import version as jaxlib_version

from vasae_jax.distributed.environment import processor_digest
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import user_cache, write_json
from vasae_jax.utils.read_json import read_json_object

SECONDS = 0.3
"""Time spent measuring, without compilation and the repeats under way when it is over."""
MIN_REPEATS = 3


class Timing(NamedTuple):
    """How long each of several implementations took."""

    name: str
    """Name of the fastest."""
    seconds: dict[str, float]
    """Shortest time of each, by name (seconds)."""

    def __str__(self) -> str:
        times = ", ".join(f"{name} {1e3 * taken:.1f} ms" for name, taken in self.seconds.items())
        return f"{self.name} ({times})"


def fastest(task: str, make: Callable[[], Mapping[str, Callable[[], jax.Array]]]) -> Timing:
    """The fastest implementation of ``task``, as measured now or by an earlier process.

    Results are kept in a file for each kind of processor, under ``task`` and jaxlib's version.
    The implementations take turns, since other programs may slow the machine down for a while,
    and the shortest time of each counts.

    Args:
        task: what is measured, with all that the result depends on, such as shapes.
        make: returns the implementations by name; called only if they must be measured.
    """
    key = f"{task}, jaxlib {jaxlib_version.__version__}"
    results = _read(file) if (file := _results_file()) else {}
    with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
        return _timing({str(name): float(taken) for name, taken in results[key].items()})
    seconds = _measure(make())
    with contextlib.suppress(UserError):  # if it cannot be kept it is measured again
        if file:
            write_json(file, results | {key: seconds})
    return _timing(seconds)


def _results_file() -> Path | None:
    with contextlib.suppress(UserError):
        return user_cache() / "measured" / f"{processor_digest()}.json"
    return None


def _timing(seconds: dict[str, float]) -> Timing:
    return Timing(min(seconds, key=seconds.__getitem__), seconds)


def _measure(implementations: Mapping[str, Callable[[], jax.Array]]) -> dict[str, float]:
    for call in implementations.values():
        jax.block_until_ready(call())  # compiles it, and touches its memory
    best, repeats = dict.fromkeys(implementations, float("inf")), 0
    began = time.perf_counter()
    while repeats < MIN_REPEATS or time.perf_counter() - began < SECONDS:
        for name, call in implementations.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            best[name] = min(best[name], time.perf_counter() - start)
        repeats += 1
    return best


def _read(file: Path) -> dict[str, dict[str, float]]:
    with contextlib.suppress(UserError):
        return read_json_object(file, "measured times")
    return {}
