"""SHA-256 digests of a checkpoint's files, kept beside them: what is whole and what is damaged.

Orbax's own formats have a checksum over some of their parts only: a flipped bit in a stored array
would be read as another number.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import path_inside, sha256_bytes, sha256_file, write_json
from vasae_jax.utils.read_json import LARGE, read_json_object

ITEMS = ("params", "rest")
"""What a step consists of: parameters, and all else of the train state."""
CHECKPOINTS = "checkpoints"
"""The folder of a run that holds them, each under the number of its step."""
DIGESTS = "digests.json"
_UNCHECKED = {DIGESTS, "commit_success.txt"}
"""Not digested: Orbax writes the second after the digests, and reads nothing from it."""


def write_digests(item: Path) -> None:
    """Write the SHA-256 of every file below ``item`` to its digests.json, atomically.

    Raises:
        UserError: the disk is full or not writable.
        OSError: a file cannot be read.
    """
    names = (path.relative_to(item).as_posix() for path in item.rglob("*") if path.is_file())
    digests = {name: sha256_file(item / name) for name in sorted(names) if name not in _UNCHECKED}
    write_json(item / DIGESTS, {"files": digests, "checksum": _checksum(digests)})


def kept_steps(run: Path) -> list[int]:
    """The steps of which a run has a complete checkpoint, in order.

    Digests are written last, so a folder without those of every item is none.
    """
    folder = run / CHECKPOINTS
    return [step for step in saved_steps(folder) if not _missing_digests(folder / str(step))]


def saved_steps(checkpoints: Path) -> list[int]:
    """The steps in a folder of checkpoints, in order, whole or damaged.

    One that is being saved has another name than its number. Names that are not written here are
    no steps, were they digits of another script.
    """
    names = (path.name for path in checkpoints.glob("*"))
    return sorted(int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name))


def damage_of(step: Path, read: Sequence[str] = ITEMS) -> str | None:
    """A sentence that names the first damaged file of a step, or None.

    Args:
        step: the directory of the step.
        read: the items whose files are compared with their digests.
    """
    wrong = _missing_digests(step)
    for item in read:
        wrong = wrong or _damage_of_item(step, item)
    return f"checkpoint {step} is damaged: {wrong}" if wrong else None


def _missing_digests(step: Path) -> str | None:
    """What a step lacks that is written last, or None."""
    missing = (item for item in ITEMS if not (step / item / DIGESTS).is_file())
    return next((f"{item}/{DIGESTS} is missing" for item in missing), None)


def _damage_of_item(step: Path, item: str) -> str | None:
    try:
        record = read_json_object(step / item / DIGESTS, "digests", limit=LARGE)
        digests: Any = record.get("files")
        intact = isinstance(digests, dict) and _checksum(digests) == record.get("checksum")
        files = {name: path_inside(step / item, name, DIGESTS) for name in digests}
    except (TypeError, UserError):
        intact = False
    if not intact:
        return f"{item}/{DIGESTS} is not what was written"
    for name, digest in digests.items():
        if not files[name].is_file():
            return f"{item}/{name} is missing"
        if sha256_file(files[name]) != digest:
            return f"{item}/{name} is not what was written"
    return None


def _checksum(digests: dict[str, str]) -> str:
    return sha256_bytes(json.dumps(digests, sort_keys=True).encode())
