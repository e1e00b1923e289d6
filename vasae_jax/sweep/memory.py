"""How many runs of a pack a device holds."""

import os

import jax

from vasae_jax.anchor.layer import KINDS
from vasae_jax.config import Config

SHARE = {"cpu": 0.4, "gpu": 0.7, "tpu": 0.8}
"""Share of a device's memory that runs may fill; the rest is for what a step needs besides."""
FLOAT = 4


def device_bytes() -> int:
    """Memory of one device; on CPU that of the machine, by which all its devices are fed."""
    stats = jax.local_devices()[0].memory_stats() or {}
    found: int = stats.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf(
        "SC_PHYS_PAGES"
    )
    return found


def member_bytes(config: Config, features: int, width: int) -> int:
    """What a device keeps of one run between steps: weights, two moments, its anchors.

    Args:
        config: of the run.
        features: those on one device.
        width: of a row.
    """
    matrices = 6 + (2 if config.sae.method == "soft" and config.anchor.mode == "nearest" else 0)
    # A feature's numbers besides: biases, moments, counters and its list of candidates.
    return features * (matrices * width + 28) * FLOAT


def shared_bytes(config: Config, features: int, width: int, vocab: int) -> int:
    """What a device needs whatever the number of runs: anchors of a layer, batches, one step."""
    anchors = vocab * len(KINDS.get(config.anchor.kind, ("embedding",)))
    batch = config.data.batch * (4 * width + 2 * features)
    return FLOAT * ((anchors + vocab) * width + batch + 2 * features * width)


def most_members(config: Config, features: int, width: int, vocab: int, layers: int) -> int:
    """Runs like this one that a device holds at once, at least 1.

    ``layers`` are those that the sweep reads: each has anchors of its own.
    """
    shared = shared_bytes(config, features, width, vocab)
    anchors = FLOAT * vocab * width * len(KINDS.get(config.anchor.kind, ("",))) * (layers - 1)
    free = SHARE.get(jax.default_backend(), 0.5) * device_bytes() - shared - anchors
    return max(1, int(free // member_bytes(config, features, width)))
