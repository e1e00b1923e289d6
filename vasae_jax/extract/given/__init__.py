"""Rows that another program has extracted, into a cache and out of one."""

from vasae_jax.extract.given.export import export_rows
from vasae_jax.extract.given.rows import GivenRows
from vasae_jax.extract.given.sources import KINDS, Beside, open_rows
from vasae_jax.extract.given.store import store_rows

__all__ = ["KINDS", "Beside", "GivenRows", "export_rows", "open_rows", "store_rows"]
