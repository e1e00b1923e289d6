"""How the runs of a pack are put in rounds."""

from collections.abc import Sequence

from vasae_jax.config import Config

Rounds = tuple[tuple[int, ...], ...]
"""The runs of each round, by number: at most as many as the mesh has places for runs."""


def rounds_of(configs: Sequence[Config], places: int) -> Rounds:
    """Rounds of ``places`` runs of one layer each, the last of a layer with what is left."""
    by_layer: dict[int, list[int]] = {}
    for run, config in enumerate(configs):
        by_layer.setdefault(config.data.layer, []).append(run)
    return tuple(
        tuple(runs[start : start + places])
        for runs in by_layer.values()
        for start in range(0, len(runs), places)
    )
