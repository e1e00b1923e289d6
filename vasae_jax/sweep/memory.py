"""How many runs of a pack a device holds."""

import os

import jax

from vasae_jax.cache.manifest import Manifest
from vasae_jax.config import Config
from vasae_jax.devices.mesh import DATA, MEMBER, MODEL
from vasae_jax.sae import choose_execution
from vasae_jax.training.memory import Memory, memory
from vasae_jax.training.shapes import shapes_of

SHARE = {"cpu": 0.4, "gpu": 0.7, "tpu": 0.8}
"""Share of a device's memory that runs may fill; the rest is for what a step needs besides."""


def device_bytes() -> int:
    """Memory of one device; on CPU that of the machine, by which all its devices are fed."""
    stats = jax.local_devices()[0].memory_stats() or {}
    found: int = stats.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf(
        "SC_PHYS_PAGES"
    )
    return found


def on_device(
    config: Config, manifest: Manifest, platform: str, *, rounds: int = 1, layers: int = 1
) -> Memory:
    """What ``rounds`` runs like ``config``, of so many layers, take on a device.

    Before a sweep's devices are there: where the mesh takes what is left for rows, none are
    thought to split them.
    """
    mesh, execution = config.mesh, choose_execution(config.sae.execution, platform)
    axes = {DATA: mesh.rows_over or 1, MODEL: mesh.model, MEMBER: mesh.member}
    shapes = shapes_of(config, manifest)
    return memory(config, shapes, axes, execution, rounds=rounds, layers=layers)


def most_members(config: Config, manifest: Manifest, platform: str, layers: int) -> int:
    """Runs like this one that a device holds at once, at least 1, of so many layers."""
    one = on_device(config, manifest, platform, layers=layers)
    free = SHARE.get(jax.default_backend(), 0.5) * device_bytes() - (one.total - one.state)
    return max(1, int(free // one.state))
