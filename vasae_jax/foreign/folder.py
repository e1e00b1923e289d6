"""An import on disk: ``imported.json`` and ``sae.npz`` in a folder of their own."""

import json
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vasae_jax.foreign.record import ForeignSAE, make_foreign
from vasae_jax.system.errors import UserError
from vasae_jax.system.files import atomic_file, refuse_existing, sha256_file, write_json
from vasae_jax.system.version import __version__

META, WEIGHTS = "imported.json", "sae.npz"
FORMAT, VERSION = "vasae-import", 1
ARRAYS = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")


@dataclass(frozen=True)
class Imported:
    """Where an imported SAE comes from and which rows it belongs to."""

    source: str
    """As it was given."""
    cache: str
    cache_digest: str
    layer: int
    skip_positions: int
    """Rows at the first so many positions of a context are masked."""
    max_norm: float
    """Rows longer than so many times the median norm are masked; 0 masks none."""


def holds_import(folder: Path) -> bool:
    """Whether ``folder`` is that of an import."""
    return (folder / META).is_file()


def write_import(folder: Path, sae: ForeignSAE, origin: Imported, overwrite: bool) -> None:
    """Write an import; the file that vouches for the other comes last.

    Raises:
        UserError: one exists (and ``overwrite`` was not asked for), or it cannot be written.
    """
    for name in (WEIGHTS, META):
        refuse_existing(folder / name, overwrite=overwrite)
    if overwrite:
        (folder / META).unlink(missing_ok=True)
    with atomic_file(folder / WEIGHTS) as file:
        np.savez(file, **{name: getattr(sae, name) for name in ARRAYS})
    said = {
        name: getattr(sae, name) for name in ("library", "activation", "k", "pre_bias", "model")
    }
    record = {
        "format": FORMAT,
        "version": VERSION,
        "created_by": f"vasae_jax {__version__}",
        **said,
        **asdict(origin),
        "sha256": sha256_file(folder / WEIGHTS),
    }
    write_json(folder / META, record)


def read_import(folder: Path) -> tuple[ForeignSAE, Imported]:
    """What :func:`write_import` wrote; UserError where it is damaged or of another version."""
    meta, weights = folder / META, folder / WEIGHTS
    try:
        record: dict[str, Any] = json.loads(meta.read_bytes())
        if (record["format"], record["version"]) != (FORMAT, VERSION):
            raise ValueError(f"format {record['format']}, version {record['version']}")
        if record["sha256"] != sha256_file(weights):
            raise ValueError(f"{weights} is another file")
        with np.load(weights, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ARRAYS}
        keys = ("library", "activation", "k", "pre_bias", "model", "layer")
        sae = make_foreign(str(weights), arrays, **{key: record[key] for key in keys})
        origin = Imported(**{name: record[name] for name in Imported.__dataclass_fields__})
    except (ValueError, KeyError, TypeError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{meta} is damaged ({error}); expected what vasae import wrote") from error
    return sae, origin
