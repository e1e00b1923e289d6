"""The activation cache: rows of a language model on disk or in a bucket.

docs/cache.md describes the format.
"""

from vasae_jax.cache.manifest import CachePlan, Manifest, ModelInfo, SplitInfo, TextInfo
from vasae_jax.cache.parts import Part, PartWriter, finish
from vasae_jax.cache.reader import Cache, RowArray, info, open_cache
from vasae_jax.cache.verify import verify
from vasae_jax.cache.writer import CacheWriter

__all__ = [
    "Cache",
    "CachePlan",
    "CacheWriter",
    "Manifest",
    "ModelInfo",
    "Part",
    "PartWriter",
    "RowArray",
    "SplitInfo",
    "TextInfo",
    "finish",
    "info",
    "open_cache",
    "verify",
]
