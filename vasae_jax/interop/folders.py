"""Layouts of many files, written from a run: a folder that appears when it is complete."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from vasae_jax import __version__
from vasae_jax.dictionary.claims import LAYER_CLAIM, REFERENCE
from vasae_jax.dictionary.dictionary import Dictionary
from vasae_jax.interop import circuit_tracer, delphi, neuronpedia
from vasae_jax.interop.common import json_bytes
from vasae_jax.interop.labels import claimed
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import write_error
from vasae_jax.utils.read_json import read_json_object
from vasae_jax.utils.replace import check_replaceable, replace_entries

META = "meta.json"
"""What a folder is, where it comes from, and what its labels claim."""
WRITTEN = {
    "delphi": (META, "latents", "explanations"),
    "neuronpedia": (META, "batch-*.json"),
    "circuit_tracer": (META, circuit_tracer.FEATURES, circuit_tracer.LABELS),
}
"""Layouts by name, and the entries of each in its folder."""
FROM_ACTIVITY = {"neuronpedia": neuronpedia.files, "circuit_tracer": circuit_tracer.files}
"""What makes the files of those that show what features do; delphi takes all firings."""
FROM_LATENTS = {"delphi": delphi.files}
"""What makes the files of those that take all firings."""


def check_folder(directory: str | os.PathLike[str], layout: str, overwrite: bool) -> None:
    """Raise UserError where :func:`write_folder` would refuse ``directory``.

    Only a folder of the same layout, or an empty one, is replaced, and of it what we wrote.
    """
    folder = Path(directory)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise UserError(
            f"{folder} exists already; expected a new path, or --overwrite to replace it"
        )
    record = read_json_object(folder / META, f"that of layout {layout}, to replace its files")
    if record.get("layout") != layout:
        raise UserError(
            f"{folder / META} is not of layout {layout}; --overwrite replaces only a folder of it"
        )
    check_replaceable(folder, WRITTEN[layout])


def write_folder(
    dictionary: Dictionary,
    content: Mapping[str, bytes],
    directory: str | os.PathLike[str],
    layout: str,
    overwrite: bool = False,
) -> Path:
    """Write the files of a layout, and ``meta.json`` beside them.

    Args:
        dictionary: that they were made from.
        content: of the files, by path within the folder.
        directory: the folder.
        layout: one of WRITTEN.
        overwrite: replace the folder of the same layout that is there.

    Raises:
        UserError: what :func:`check_folder` refuses, or a place that cannot be written.
    """
    check_folder(directory, layout, overwrite)
    folder = Path(directory)
    files = {**content, META: json_bytes(_meta(dictionary, layout))}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=folder.resolve().parent, prefix=f".{folder.name}.", ignore_cleanup_errors=True
        ) as scratch:
            _fill(Path(scratch), files)
            folder.mkdir(exist_ok=True)
            replace_entries(Path(scratch), folder, WRITTEN[layout])
    except OSError as error:
        raise write_error(folder, error) from error
    return folder


def _fill(scratch: Path, files: Mapping[str, bytes]) -> None:
    """Write ``files`` to the disk; one wait for all, since there may be one for each feature."""
    for parent in {(scratch / name).parent for name in files}:
        parent.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (scratch / name).write_bytes(data)
    os.sync()


def _meta(dictionary: Dictionary, layout: str) -> dict[str, object]:
    named = sum(bool(claimed(dictionary.names(f))) for f in range(dictionary.d_sae))
    return {
        "layout": layout,
        "created_by": f"vasae_jax {__version__}",
        "claim": LAYER_CLAIM,
        "reference": REFERENCE,
        "features": dictionary.d_sae,
        "named": named,
        "hold_over": dictionary.meta["hold_over"],
        "provenance": dictionary.meta["provenance"],
    }
