"""Settings of a run: what they are, where they come from, and those that have a name."""

from vasae_jax.config.settings import (
    AnchorConfig,
    Config,
    DataConfig,
    Mask,
    MeshConfig,
    OptimConfig,
    RunConfig,
    SAEConfig,
)

__all__ = [
    "AnchorConfig",
    "Config",
    "DataConfig",
    "Mask",
    "MeshConfig",
    "OptimConfig",
    "RunConfig",
    "SAEConfig",
]
