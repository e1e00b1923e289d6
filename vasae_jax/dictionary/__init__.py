"""The named dictionary: the artefact, its files, its tables, and other libraries' layouts."""

from vasae_jax.dictionary.artefact import Dictionary, make_dictionary
from vasae_jax.dictionary.files import check_outputs, read_dictionary, write_dictionary
from vasae_jax.dictionary.from_run import publish
from vasae_jax.dictionary.meta import make_meta, provenance

__all__ = [
    "Dictionary",
    "check_outputs",
    "make_dictionary",
    "make_meta",
    "provenance",
    "publish",
    "read_dictionary",
    "write_dictionary",
]
