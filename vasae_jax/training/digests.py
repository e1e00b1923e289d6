"""Digests of a checkpoint's files, kept beside them, and what is damaged by them.

Orbax's own formats have a checksum over some of their parts only: a flipped bit in a stored
array would be read as another number.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from vasae_jax.system.files import sha256_bytes, sha256_file, write_json

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
