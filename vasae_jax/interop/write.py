"""Writes a dictionary as another library reads it, with the same reconstruction there."""

import contextlib
import os
from pathlib import Path

from vasae_jax.dictionary.dictionary import Dictionary
from vasae_jax.interop import dictionary_learning, gemma_scope, huggingface, sae_lens, sparsify
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import atomic_file, refuse_existing

LAYOUTS = {
    "sae_lens": sae_lens.files,
    "sparsify": sparsify.files,
    "dictionary_learning": dictionary_learning.files,
    "gemma_scope": gemma_scope.files,
    "huggingface": huggingface.files,
}
"""Layouts by name. Each function returns the content of its files by name."""


def export_layout(
    dictionary: Dictionary, layout: str, directory: str | os.PathLike[str], overwrite: bool = False
) -> tuple[Path, ...]:
    """Write ``dictionary`` into ``directory`` as library ``layout`` reads it.

    Returns:
        The paths written.

    Raises:
        UserError: an unknown layout, a library that is needed and not installed, an existing
            file (and ``overwrite`` is False), or a place that cannot be written.
    """
    if layout not in LAYOUTS:
        raise UserError(f"{layout!r} is not a layout; expected one of {', '.join(LAYOUTS)}")
    content = {Path(directory) / name: data for name, data in LAYOUTS[layout](dictionary).items()}
    for path in content:
        refuse_existing(path, overwrite=overwrite)
    with contextlib.ExitStack() as stack:
        # All are written before any appears under its name, and the last appears last.
        for path, data in reversed(content.items()):
            stack.enter_context(atomic_file(path)).write(data)
    return tuple(content)
