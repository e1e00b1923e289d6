"""The training run inside ``vasae quickstart``, on the cache that it leaves.

Command:  vasae train configs/quickstart.py --run.out=out/mine --sae.k=64
          (after vasae quickstart, whose cache is in out/quickstart/cache)
Run time: measured, 2 CPU cores: 98 s.
Result:   measured on 6,141 held-out rows: variance explained 0.72, dead 2.6%, firing features
          aligned 99%, activation mass aligned 77%.
"""

from vasae_jax.config.presets import quickstart

config = quickstart(cache="out/quickstart/cache", layer=15, out="out/quickstart-train")
