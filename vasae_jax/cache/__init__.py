"""The activation cache: rows of a language model on disk or in a bucket.

docs/cache.md describes the format.
"""

from vasae_jax.cache.manifest import CachePlan as CachePlan
from vasae_jax.cache.manifest import Manifest as Manifest
from vasae_jax.cache.manifest import ModelInfo as ModelInfo
from vasae_jax.cache.manifest import TextInfo as TextInfo
from vasae_jax.cache.overlap import Overlap as Overlap
from vasae_jax.cache.overlap import overlap as overlap
from vasae_jax.cache.parts import Part as Part
from vasae_jax.cache.parts import PartWriter as PartWriter
from vasae_jax.cache.parts import finish as finish
from vasae_jax.cache.reader import Cache as Cache
from vasae_jax.cache.reader import RowArray as RowArray
from vasae_jax.cache.reader import info as info
from vasae_jax.cache.reader import open_cache as open_cache
from vasae_jax.cache.verify import verify as verify
from vasae_jax.cache.vocab import Vocabulary as Vocabulary
from vasae_jax.cache.writer import CacheWriter as CacheWriter
