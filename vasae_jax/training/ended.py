"""Runs that ended before their last step, and why; kept beside their checkpoints."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from vasae_jax.devices.distributed import is_first
from vasae_jax.system.errors import UserError
from vasae_jax.system.files import write_json

ENDED = "ended.json"
DIVERGED, STOPPED = "diverged", "stopped"


@dataclass(frozen=True)
class Ended:
    """How a run of a pack ended while the others went on."""

    how: str
    """DIVERGED, or STOPPED where others were ahead of it."""
    step: int
    """The step after which it was seen."""
    why: str
    """In words."""


def write_ended(run: Path, ended: Ended) -> None:
    """Keep how ``run`` ended, from the first process; its last checkpoint is its last state."""
    if is_first():
        write_json(run / ENDED, asdict(ended))


def read_ended(run: Path) -> Ended | None:
    """How a run ended before its last step, or None.

    Raises:
        UserError: the file is not what was written.
    """
    file = run / ENDED
    try:
        return Ended(**json.loads(file.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}); expected what vasae wrote") from error
