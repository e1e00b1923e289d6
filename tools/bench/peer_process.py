"""Other libraries' SAEs, in a process of their own environment (``peers.py``)."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

REUSE_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""What ``reuse_memory`` does for our own process, as variables of glibc: otherwise every step would
touch its temporary memory for the first time, and pay more for that than for some of its products.
"""


class Peers:
    """The process; it ends with this one, or when it is closed."""

    def __init__(self, python: str) -> None:
        script = Path(__file__).with_name("peers.py")
        self._process = subprocess.Popen(
            [python, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | REUSE_MEMORY,
        )
        self.names: list[str] = self._read()

    def make(self, name: str, **settings: Any) -> None:
        """Start an SAE of a library anew; ``settings`` are those of ``peers.py``."""
        self._ask({"make": name, "settings": settings})

    def step(self, name: str, x: np.ndarray) -> float:
        """Seconds of a step on ``x`` float32 [rows, d_in], as the peer says."""
        rows, d_in = x.shape
        request = {"step": name, "rows": rows, "d_in": d_in}
        found = self._ask(request, np.ascontiguousarray(x, np.float32).tobytes())
        return float(found["seconds"])

    def save(self, name: str, folder: Path) -> None:
        """Write its SAE into ``folder`` as its library does."""
        self._ask({"save": name, "folder": str(folder)})

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _ask(self, request: dict[str, Any], numbers: bytes = b"") -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n" + numbers)
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the peers' process ended; expected an answer (see above)")
        return json.loads(line)
