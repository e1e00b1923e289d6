"""Lambda, k, seed and two layers of SmolLM2-135M: 24 runs, over the quickstart's cache.

Command:  vasae sweep configs/sweeps/smollm2.py
Needs:    out/quickstart/cache, which vasae quickstart makes (layers 10, 15 and 20).
Time:     5 min 29 s on two idle CPU cores: two packs of 12 runs, then 24 evaluations.
          This and the result are of an earlier recipe, over CPython's topics.
Result:   hold@10 53 to 55% at k 16 and 43 to 47% at k 32 with lambda 2 and 8; 46 to 48% and 31 to
          35% with 0.5. Variance explained .79 to .81 (layer 10) and .71 to .75 (layer 20): k 32
          gives 1.3 to 2.4 points more, and lambda 8 costs 0.7 to 1.1 points against 0.5. Two seeds
          differ by 0.6 points of hold@10 in the median, 1.7 at most.
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
