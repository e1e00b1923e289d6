"""Recipes side by side over a grid of lambdas: what each reconstructs, and what its names hold.

Command:  vasae sweep configs/sweeps/recipes.py --data.cache=CACHE --out=OUT
          vasae sweep plot OUT --by anchor.weight
Needs:    a cache with the layers of LAYERS; docs/frontier.md says how the published one was made.
Time:     not measured as one sweep: 36 runs of 800 steps.
Result:   docs/names.md, and of an earlier recipe docs/frontier.md, have what such grids gave.

All runs have the same rows, mask, batches, features, k and steps: what differs is how a recipe
starts, what it minimises and how its learning rate goes.
"""

from vasae_jax.config import AnchorConfig, Config, DataConfig, RunConfig, SAEConfig, presets
from vasae_jax.config.overrides import flatten
from vasae_jax.sweep import Sweep, grid

LAYERS = 3, 9
SEEDS = 0, 1, 2
LAMBDAS = {
    presets.plain: (0.0,),
    presets.published: (1e-4,),
    presets.embedding: (3.5,),
    presets.default: (0.1, 0.2),
    presets.named: (0.2,),
}

base = Config(
    data=DataConfig(batch=1024),
    sae=SAEConfig(d_sae=4096, k=32),
    # With the presets' own share the published recipe, whose rows turn fast, takes twice the time.
    anchor=AnchorConfig(search_fraction=0.03),
    run=RunConfig(steps=800),
)
SAME = "sae.d_sae", "sae.k", "anchor.search_fraction", "anchor.weight"


def recipe(config: Config) -> grid.Grid:
    """A point with the settings in which a recipe differs from the base."""
    usual = flatten(base)
    return (
        {
            name: value
            for name, value in flatten(config).items()
            if name.startswith(("sae.", "anchor.", "optim."))
            and name not in SAME
            and value != usual[name]
        },
    )


points = grid.product(
    grid.axis("run.seed", *SEEDS),
    grid.axis("data.layer", *LAYERS),
    grid.chain(
        *(
            grid.product(recipe(preset()), grid.axis("anchor.weight", *weights))
            for preset, weights in LAMBDAS.items()
        )
    ),
)
sweep = Sweep(base, points, out="out/recipes")
