"""The training run inside ``vasae quickstart``, on the cache that it leaves.

Command:  vasae train configs/quickstart.py --run.out=out/mine --sae.k=64
          (after vasae quickstart, whose cache is in out/quickstart/cache)
Run time: measured: 53 s on two CPU cores (AMD EPYC).
Result:   measured on 23,311 held-out rows: variance explained 0.82, dead 0.1%, hold@10 38.2%,
          activation held 43.1%, features whose first name holds 26.8%.
"""

from vasae_jax.config.presets import quickstart

config = quickstart(cache="out/quickstart/cache", layer=15, out="out/quickstart-train")
