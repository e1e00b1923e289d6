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
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from jax.sharding import Mesh

from vasae_jax import __version__
from vasae_jax.cache import Cache
from vasae_jax.config import Config
from vasae_jax.config.overrides import to_dict
from vasae_jax.distributed.hosts import host_names, is_first
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import sha256_bytes, sha256_file, write_bytes, write_json
from vasae_jax.utils.signals import Stopped

# Digests of a checkpoint's files, kept beside them, and what is damaged by them.
#
# Orbax's own formats have a checksum over some of their parts only: a flipped bit in a stored
# array would be read as another number.


DIGESTS = "digests.json"
_COMMIT = "commit_success.txt"
"""Orbax writes it after the digests, and reads nothing from it."""


def write_digests(item: Path) -> None:
    """Write the SHA-256 of every file below ``item`` to its digests.json, atomically.

    Raises:
        UserError: the disk is full or not writable.
        OSError: a file cannot be read.
    """
    found = {name: sha256_file(item / name) for name in _names(item)}
    write_json(item / DIGESTS, {"files": found, "checksum": _checksum(found)})


def digested(step: Path, items: Sequence[str]) -> bool:
    """Whether any item of a step has digests: steps that earlier versions wrote have none."""
    return any((step / item / DIGESTS).exists() for item in items)


def damage(step: Path, items: Sequence[str], read: Sequence[str]) -> str | None:
    """The first damaged file of a step and what is wrong with it, or None.

    Args:
        step: the directory of the step.
        items: all items of a step.
        read: those of them whose files are compared with their digests.
    """
    if not digested(step, items):
        return None
    found = (f"{item}/{wrong}" for item in read if (wrong := _damage(step / item)))
    missing = (f"{item}/{DIGESTS} is missing" for item in items if not _listed(step / item))
    return next(missing, None) or next(found, None)


def _damage(item: Path) -> str | None:
    digests = _read(item / DIGESTS)
    if digests is None:
        return f"{DIGESTS} is not what was written"
    for name, digest in digests.items():
        if not (item / name).is_file():
            return f"{name} is missing"
        if sha256_file(item / name) != digest:
            return f"{name} is not what was written"
    return None


def _listed(item: Path) -> bool:
    return (item / DIGESTS).is_file()


def _read(file: Path) -> dict[str, str] | None:
    """The digests by file, or None where they are not what was written themselves."""
    try:
        value = json.loads(file.read_bytes())
        found: dict[str, str] = value["files"]
        return found if _checksum(found) == value["checksum"] else None
    except (ValueError, KeyError, TypeError):
        return None


def _checksum(files: dict[str, str]) -> str:
    return sha256_bytes(json.dumps(files, sort_keys=True).encode())


def _names(item: Path) -> list[str]:
    own = (item / DIGESTS, item / _COMMIT)
    files = (path for path in item.rglob("*") if path.is_file() and path not in own)
    return sorted(path.relative_to(item).as_posix() for path in files)


EVENTS = "events.jsonl"
NO_WORD = "killed, or its machine was lost: it left no word"
LIBRARIES = ("jax", "jaxlib", "numpy", "flax", "optax", "orbax-checkpoint", "tensorstore")


class Events:
    """Tells a run's directory of one start of it while open; to be opened on all processes.

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
            killed = bool(lines) and lines[-1].get("event") != "end"
            _write(self._file, [*lines, *([_end(NO_WORD)] if killed else []), self._start])
        return self

    def train(self, after: int) -> None:
        """Write that the steps after this one are trained now."""
        if is_first():
            line = {"event": "train", "time": _now(), "after": after}
            _write(self._file, [*_lines(self._file), line])

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write the end; where that is impossible, the error that ended the start matters more."""
        if is_first():
            with contextlib.suppress(UserError):
                _write(self._file, [*_lines(self._file), _end(self.end_reason or _reason(error))])


def describe(config: Config, cache: Cache, mesh: Mesh) -> dict[str, Any]:
    """The record of a start: settings and their hash, versions, devices, hosts, the cache."""
    settings = to_dict(config)
    devices = mesh.devices.flatten()
    return {
        "event": "start",
        "time": _now(),
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
            **{name: version(name) for name in LIBRARIES},
        },
        "cache_digest": cache.digest,
        "config_sha256": sha256_bytes(json.dumps(settings, sort_keys=True).encode()),
        "config": settings,
    }


def _end(reason: str) -> dict[str, Any]:
    return {"event": "end", "time": _now(), "reason": reason}


def _reason(error: BaseException | None) -> str:
    if error is None:
        return "complete"
    if isinstance(error, UserError | Stopped):
        return str(error)
    return f"{type(error).__name__}: {str(error).partition(os.linesep)[0]}"


def _lines(file: Path) -> list[dict[str, Any]]:
    """The records of a file; what is none, as in one that was damaged, is left out."""
    found = []
    for line in file.read_bytes().splitlines() if file.exists() else ():
        with contextlib.suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict):
                found.append(value)
    return found


def _write(file: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    write_bytes(file, "".join(json.dumps(line) + "\n" for line in lines).encode())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
