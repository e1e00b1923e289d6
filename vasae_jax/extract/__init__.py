"""Extraction: text through a language model into an activation cache."""

from vasae_jax.extract.pipeline import Settings, extract
from vasae_jax.extract.text import read_documents

__all__ = ["Settings", "extract", "read_documents"]
