"""What a machine does at best: the rates that the floors of the benches are worked out from."""

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp


def describe() -> dict[str, Any]:
    """The machine, for the head of a record."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind if device.platform != "cpu" else _processor(),
        "platform": device.platform,
        "devices": jax.device_count(),
        "jax": jax.__version__,
    }


def tell(found: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a record: one JSON object, or a line for each of its figures."""
    if as_json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:<18}{value:.4g}" if isinstance(value, float) else f"{name:<18}{value}")


def timed(run: Callable[[], Any]) -> float:
    """Seconds until the result of ``run`` is there."""
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began


def in_turns(ways: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each way; they take turns, so that a drifting machine favours none.

    The first round, in which programs compile, does not count.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            seconds = timed(way)
            if number:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def product(rows: int, width: int, columns: int, dtype: str) -> Callable[[], jax.Array]:
    """A bare product of [rows, width] and [columns, width], of that type, summed in float32."""
    x, W = (jnp.ones((n, width), jnp.dtype(dtype)) for n in (rows, columns))
    dims = (((1,), (1,)), ((), ()))
    run = jax.jit(lambda x, W: jax.lax.dot_general(x, W, dims, preferred_element_type=jnp.float32))
    return lambda: run(x, W)


def copy(rows: int, width: int) -> Callable[[], jax.Array]:
    """A bare copy of a float32 matrix: two streams of its bytes."""
    W = jnp.ones((rows, width))
    run = jax.jit(lambda W: W + 1.0)
    return lambda: run(W)


def rate(rows: int, width: int, columns: int, dtype: str, rounds: int = 3) -> float:
    """Flops a second of that product, at the median."""
    seconds = in_turns({"product": product(rows, width, columns, dtype)}, rounds)["product"]
    return 2.0 * rows * width * columns / seconds


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()
