"""Settings of a training run, named sets of them, and how they are read."""

from vasae_jax.config.settings import AnchorConfig as AnchorConfig
from vasae_jax.config.settings import Config as Config
from vasae_jax.config.settings import DataConfig as DataConfig
from vasae_jax.config.settings import Mask as Mask
from vasae_jax.config.settings import MeshConfig as MeshConfig
from vasae_jax.config.settings import OptimConfig as OptimConfig
from vasae_jax.config.settings import RunConfig as RunConfig
from vasae_jax.config.settings import SAEConfig as SAEConfig
