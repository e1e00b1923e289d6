"""The training run inside ``vasae quickstart``, on the cache that it leaves.

Command:  vasae train configs/quickstart.py --run.out=out/mine --sae.k=64
          (after vasae quickstart, whose cache is in out/quickstart/cache)
Run time: RUNTIME_PLACEHOLDER
Result:   RESULT_PLACEHOLDER
"""

from vasae_jax.presets import quickstart

config = quickstart(cache="out/quickstart/cache", layer=5, out="out/quickstart-train")
