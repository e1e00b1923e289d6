"""A small sweep over a small cache."""

from pathlib import Path

from vasae_jax.config import Config, DataConfig, MeshConfig, RunConfig, SAEConfig
from vasae_jax.sweep import Sweep, grid
from vasae_jax.sweep.table import table

SECONDS = ("seconds",)
"""Columns that no two runs agree on."""


def make_base(cache, **run):
    settings = {"steps": 12, "log_every": 4, "checkpoint_every": 4, **run}
    return Config(
        data=DataConfig(cache=cache, layer=1, batch=32, readers=4, shuffle_chunks=2, seed=0),
        sae=SAEConfig(d_sae=32, k=3),
        mesh=MeshConfig(data=1),
        run=RunConfig(**settings),
    )


def make_points(weights=(0.5, 2.0), ks=(2, 4), layers=(1,)):
    return grid.product(
        grid.axis("anchor.weight", *weights),
        grid.axis("sae.k", *ks),
        grid.axis("data.layer", *layers),
    )


def make_sweep(cache, out, **axes):
    return Sweep(make_base(cache), make_points(**axes), str(out))


def without_times(rows):
    return [{k: v for k, v in row.items() if k not in (*SECONDS, "data.cache")} for row in rows]


def figures(members):
    """The table of a sweep, but for what its runs took."""
    return without_times(table(members))


def write_file(path: Path, base: str, points: str, out: Path) -> Path:
    """A sweep file with the base and the points of these Python expressions."""
    path.write_text(
        "from sweep_fixtures import make_base, make_points\n"
        "from vasae_jax.sweep import Sweep, grid\n"
        f"sweep = Sweep({base}, {points}, {str(out)!r})\n",
        encoding="utf-8",
    )
    return path
