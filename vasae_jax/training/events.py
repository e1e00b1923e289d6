"""events.jsonl of a run: what each start ran with, where, and why it ended.

A start leaves the lines ``start``, ``train`` with the step after which it trains (0 for a new run),
where it came so far, and ``end``. One that was killed leaves no end, and the next start writes it.
"""

import contextlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from jax.sharding import Mesh

from vasae_jax import __version__
from vasae_jax.cache import Cache
from vasae_jax.config import Config
from vasae_jax.config.overrides import to_dict
from vasae_jax.distributed.hosts import host_names, is_first
from vasae_jax.utils.ending import LIBRARIES, versions
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import sha256_bytes, write_bytes
from vasae_jax.utils.read_json import read_json_lines
from vasae_jax.utils.signals import Stopped

EVENTS = "events.jsonl"
NO_WORD = "killed, or its machine was lost: it left no word"


class Events:
    """Writes one start of a run to its directory while open; to be opened on all processes.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, config: Config, cache: Cache, mesh: Mesh) -> None:
        self._file = Path(config.run.out) / EVENTS
        self._start = describe(config, cache, mesh)
        self.end_reason = ""
        """Why the run ended while others of its pack went on; empty where it did not."""

    def __enter__(self) -> Self:
        """Write the start, and the end of one before that was killed."""
        if is_first():
            lines = _lines(self._file)
            if lines and lines[-1].get("event") != "end":
                lines.append(_end(NO_WORD))
            _write(self._file, [*lines, self._start])
        return self

    def train(self, after: int) -> None:
        """Write that the steps after this one are trained now."""
        if is_first():
            _write(self._file, [*_lines(self._file), {**_event("train"), "after": after}])

    def __exit__(self, _: object, error: BaseException | None, trace: object) -> None:
        """Write the end; where that is impossible, the error that ended the start matters more."""
        if is_first():
            with contextlib.suppress(UserError):
                _write(self._file, [*_lines(self._file), _end(self.end_reason or _reason(error))])


def describe(config: Config, cache: Cache, mesh: Mesh) -> dict[str, Any]:
    """The record of a start: settings and their hash, versions, devices, hosts, the cache."""
    settings = to_dict(config)
    devices = mesh.devices.flatten()
    return {
        **_event("start"),
        "process": os.getpid(),
        "hosts": host_names(),
        "devices": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
            "mesh": dict(mesh.shape),
        },
        "versions": {
            "vasae_jax": __version__,
            "python": platform.python_version(),
            **versions(*LIBRARIES),
        },
        "cache_digest": cache.digest,
        "config_sha256": sha256_bytes(json.dumps(settings, sort_keys=True).encode()),
        "config": settings,
    }


def _event(name: str) -> dict[str, Any]:
    return {"event": name, "time": datetime.now(UTC).isoformat(timespec="seconds")}


def _end(reason: str) -> dict[str, Any]:
    return {**_event("end"), "reason": reason}


def _reason(error: BaseException | None) -> str:
    if error is None:
        return "complete"
    if isinstance(error, UserError | Stopped):
        return str(error)
    return f"{type(error).__name__}: {str(error).partition(os.linesep)[0]}"


def _lines(file: Path) -> list[dict[str, Any]]:
    """The records of a file; lines that are no record, as in a damaged file, are left out."""
    return list(read_json_lines(file, "the events of a run"))


def _write(file: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    write_bytes(file, "".join(json.dumps(line) + "\n" for line in lines).encode())
