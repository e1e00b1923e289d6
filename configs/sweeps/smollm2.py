"""Lambda, k, seed and two layers of SmolLM2-135M: 24 runs, over the quickstart's cache.

Command:  vasae sweep configs/sweeps/smollm2.py
Needs:    out/quickstart/cache, which vasae quickstart makes (layers 10, 15 and 20).
"""

from vasae_jax.config import Config, DataConfig, RunConfig, SAEConfig
from vasae_jax.sweep import Sweep, grid

base = Config(
    # The seed of a run is that of the order of its rows: no weight is drawn. So it splits packs.
    data=DataConfig(cache="out/quickstart/cache", batch=1024),
    sae=SAEConfig(d_sae=2048),
    run=RunConfig(steps=300, checkpoint_every=150),
)
points = grid.product(
    grid.axis("anchor.weight", 0.5, 2.0, 8.0),
    grid.axis("sae.k", 16, 32),
    grid.axis("run.seed", 0, 1),
    grid.axis("data.layer", 10, 20),
)
sweep = Sweep(base, points, out="out/sweep")
