"""Data files of the page: each is a script that hands over one JSON value.

A page that is opened from a disk may load scripts, but may not fetch files. So a value is
written as ``vasae.put(KEY, VALUE);``. JSON is written in ASCII, so that no character of a token
can end a string, a line or a script.
"""

import base64
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

TYPES = {"u1", "i1", "u2", "i2", "i4", "f4"}
"""Types of a column as the page reads them, little-endian."""


def write_shard(data: Path, key: str, value: Any) -> None:
    """Write ``value`` as ``data``/KEY.js; KEY may have slashes. Returns once it is on the disk."""
    body = json.dumps(value, allow_nan=False, separators=(",", ":"))
    path = data / f"{key}.js"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="ascii") as file:
        file.write(f"vasae.put({json.dumps(key)},{body});\n")
        file.flush()
        os.fsync(file.fileno())


def column(array: np.ndarray, kind: str) -> dict[str, Any]:
    """An array as JSON: its type (one of TYPES), its shape, its bytes in base64.

    Raises:
        ValueError: an integer does not fit into ``kind``; a caller has chosen wrongly.
    """
    fits = array.astype(np.dtype(f"<{kind}"))
    if kind[0] != "f" and not np.array_equal(fits, array):
        raise ValueError(f"numbers do not fit into {kind}")
    data = base64.b64encode(np.ascontiguousarray(fits).tobytes()).decode()
    return {"type": kind, "shape": list(array.shape), "data": data}


def whole(array: np.ndarray) -> dict[str, Any]:
    """Integers from -1 as a column of the smallest type that holds them, one added to each."""
    largest = int(array.max(initial=-1)) + 1
    kind = "u1" if largest < 2**8 else "u2" if largest < 2**16 else "i4"
    return {**column(array.astype(np.int64) + 1, kind), "less": 1}


def shares(array: np.ndarray) -> dict[str, Any]:
    """Numbers from 0 to 1 as a column of bytes, to the nearest of 255."""
    return column(np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8), "u1")
