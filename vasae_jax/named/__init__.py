"""A named dictionary as it is published: read, searched and applied with NumPy alone.

Nothing here may import JAX: ``vasae_jax.load`` is for machines and moments without it.
"""

from vasae_jax.named.dictionary import Dictionary
from vasae_jax.named.files import load, read_dictionary
from vasae_jax.named.lookup import Active, FeatureNames, Found, Name, Near

__all__ = [
    "Active",
    "Dictionary",
    "FeatureNames",
    "Found",
    "Name",
    "Near",
    "load",
    "read_dictionary",
]
