"""SAEs that other libraries have written, in this project's own terms."""

from vasae_jax.foreign.folder import Imported, holds_import, read_import, write_import
from vasae_jax.foreign.read import LIBRARIES, read_foreign
from vasae_jax.foreign.record import ForeignSAE

__all__ = [
    "LIBRARIES",
    "ForeignSAE",
    "Imported",
    "holds_import",
    "read_foreign",
    "read_import",
    "write_import",
]
