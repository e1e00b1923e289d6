"""The sweep over recipes: each of its runs has a preset's settings, and what it holds the same."""

from dataclasses import replace
from pathlib import Path

import pytest
from cache_fixtures import make_cache

from vasae_jax.cli.main import main
from vasae_jax.config import presets
from vasae_jax.sweep import load_sweep
from vasae_jax.sweep.points import apply_point

COLUMNS = "weight,all.hold10,all.holds,unmasked.dead_fraction"
FILE = Path(__file__).parents[2] / "configs" / "sweeps" / "recipes.py"


def test_a_point_is_a_preset_on_the_same_rows():
    sweep = load_sweep(str(FILE))
    configs = [apply_point(sweep.base, point, n) for n, point in enumerate(sweep.points)]
    assert len(configs) == 6 * 3 * 2
    for preset, weights in (
        (presets.plain, [0.0]),
        (presets.published, [1e-4]),
        (presets.embedding, [3.5]),
        (presets.default, [0.1, 0.2]),
        (presets.named, [0.2]),
    ):
        recipe = preset()
        sae = replace(recipe.sae, d_sae=4096, k=32)
        for weight in weights:
            anchor = replace(recipe.anchor, weight=weight, search_fraction=0.03)
            same = [c for c in configs if (c.sae, c.anchor, c.optim) == (sae, anchor, recipe.optim)]
            places = {(c.data.layer, c.run.seed) for c in same}
            assert places == {(layer, seed) for layer in (3, 9) for seed in (0, 1, 2)}
    assert {replace(c.data, layer=0) for c in configs} == {replace(sweep.base.data, layer=0)}


@pytest.mark.slow
def test_recipes_are_trained_and_drawn(tmp_path, capsys):
    cache = make_cache(tmp_path / "cache", rows=600, layers=(3, 9)).url
    out, text = tmp_path / "out", FILE.read_text(encoding="utf-8")
    file = tmp_path / "recipes.py"
    file.write_text(
        text.replace("SEEDS = 0, 1, 2", "SEEDS = (0,)").replace("LAYERS = 3, 9", "LAYERS = (9,)"),
        encoding="utf-8",
    )
    sizes = ["--sae.d-sae=32", "--sae.k=3", "--run.steps=6", "--data.batch=32", "--mesh.data=1"]
    small = [*sizes, "--data.readers=2", "--data.shuffle-chunks=1"]
    assert main(["sweep", str(file), f"--data.cache={cache}", f"--out={out}", *small]) == 0
    sweep = load_sweep(str(file))
    assert main(["sweep", "plot", str(out), "--by", "anchor.weight"]) == 0
    assert (out / "axes.png").exists()
    capsys.readouterr()
    assert main(["sweep", "table", str(out), "--columns", COLUMNS]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(sweep.points) == 6 and len([line for line in lines if line[0].isdigit()]) == 6
