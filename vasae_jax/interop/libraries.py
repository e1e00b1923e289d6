"""The libraries by name: which SAEs are read, and which layouts a dictionary is written in."""

import contextlib
import os
from pathlib import Path

from vasae_jax.dictionary.dictionary import Dictionary
from vasae_jax.interop import dictionary_learning, gemma_scope, huggingface, sae_lens, sparsify
from vasae_jax.interop.record import ForeignSAE
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import atomic_file, expand_user, refuse_existing
from vasae_jax.utils.hub import download
from vasae_jax.utils.read_json import read_json_object

LIBRARIES = {
    "sae_lens": (sae_lens.read, [sae_lens.WEIGHTS]),
    "sparsify": (sparsify.read, [sparsify.WEIGHTS]),
    "dictionary_learning": (dictionary_learning.read, [dictionary_learning.WEIGHTS]),
    "gemma_scope": (gemma_scope.read, list(gemma_scope.WEIGHTS)),
}
"""Libraries by name: what reads a folder, and the files of weights by which it is recognised."""
LAYOUTS = {
    "sae_lens": sae_lens.files,
    "sparsify": sparsify.files,
    "dictionary_learning": dictionary_learning.files,
    "gemma_scope": gemma_scope.files,
    "huggingface": huggingface.files,
}
"""Layouts by name. Each function returns the content of its files by name."""
RECORDS = {
    "sae_lens": (sae_lens.CONFIG, ("architecture", "d_sae")),
    "sparsify": (sparsify.CONFIG, ("num_latents", "k")),
    "dictionary_learning": (dictionary_learning.CONFIG, ("trainer",)),
    "huggingface": (sae_lens.CONFIG, ("architecture", "d_sae")),
}
"""The file that appears first of a layout, and keys in it; Gemma Scope has none."""


def read_foreign(source: str, library: str = "auto", folder: str = "") -> ForeignSAE:
    """Read an SAE.

    Args:
        source: a folder, or the name of a repository on the Hugging Face hub.
        library: one of LIBRARIES, or ``auto`` to go by the files that are there.
        folder: the folder within the source; of a repository only that is downloaded.

    Raises:
        UserError: no such source, no SAE in it, or one that cannot be kept exactly.
    """
    if library != "auto" and library not in LIBRARIES:
        known = ", ".join(("auto", *LIBRARIES))
        raise UserError(f"{library!r} is not a library; expected one of {known}")
    place = _place(source, folder)
    if not place.is_dir():
        raise UserError(f"{place} is not a folder; expected one with an SAE's files")
    read, _ = LIBRARIES[_library(place, library)]
    return read(place)


def source_place(source: str, folder: str) -> str:
    """What an import notes of its source: a path from the root, or OWNER/NAME/FOLDER of the hub."""
    place = f"{source}/{folder}" if folder else source
    return place if _on_hub(source) else os.path.abspath(expand_user(place))


def _on_hub(source: str) -> bool:
    local = source.startswith((".", "/", "~")) or expand_user(source).exists()
    return not local and source.count("/") == 1


def _place(source: str, folder: str) -> Path:
    path = expand_user(source)
    if not _on_hub(source):
        return (path if path.is_dir() or not path.is_file() else path.parent) / folder
    patterns = [f"{folder.rstrip('/')}/*"] if folder else ["*"]
    return download(source, patterns) / folder


def _library(place: Path, library: str) -> str:
    if library != "auto":
        return library
    here = {path.name for path in place.iterdir()}
    names = [name for name, (_, weights) in LIBRARIES.items() if here & set(weights)]
    if len(names) == 1:
        return names[0]
    if names:
        raise UserError(
            f"{place} holds files of {' and '.join(names)}; expected --from to say which"
        )
    raise UserError(
        f"{place} holds no SAE that is known: found {', '.join(sorted(here)[:5]) or 'nothing'}; "
        "expected sae_weights.safetensors, sae.safetensors, ae.pt or params.npz (or --folder)"
    )


def export_layout(
    dictionary: Dictionary, layout: str, directory: str | os.PathLike[str], overwrite: bool = False
) -> tuple[Path, ...]:
    """Write ``dictionary`` into ``directory`` as library ``layout`` reads it.

    Returns:
        The paths written.

    Raises:
        UserError: an unknown layout, a library that is needed and not installed, an existing
            file (and ``overwrite`` is False, or it is not of this layout), or a place that cannot
            be written.
    """
    if layout not in LAYOUTS:
        raise UserError(f"{layout!r} is not a layout; expected one of {', '.join(LAYOUTS)}")
    content = {Path(directory) / name: data for name, data in LAYOUTS[layout](dictionary).items()}
    for path in content:
        refuse_existing(path, overwrite=overwrite)
    if any(path.exists() for path in content):
        _check_layout(Path(directory), layout)
    with contextlib.ExitStack() as stack:
        # All are written before any appears under its name, and the last appears last.
        for path, data in reversed(content.items()):
            stack.enter_context(atomic_file(path)).write(data)
    return tuple(content)


def _check_layout(directory: Path, layout: str) -> None:
    """Raise UserError unless what would be replaced in ``directory`` is of ``layout``."""
    file, keys = RECORDS.get(layout, ("", ()))
    if not keys:
        return
    record = read_json_object(directory / file, f"that of layout {layout}, to replace its files")
    if missing := [key for key in keys if key not in record]:
        raise UserError(
            f"{directory / file} has no {missing[0]}; --overwrite replaces only files of layout "
            f"{layout}"
        )
