"""The frontier: its rows, what is not trained twice, its figure and its refusals."""

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cache_fixtures import make_cache
from full_disks import full_beyond

from vasae_jax.report.figures.frontier import frontier_figure
from vasae_jax.report.frontier import Grid, read_rows, run_points, table
from vasae_jax.utils.errors import UserError

TOOL = Path(__file__).parents[2] / "tools" / "frontier.py"
KEYS = {
    "recipe",
    "lambda",
    "layer",
    "seed",
    "variance_explained",
    "dead_fraction",
    "firing_aligned",
    "mass_aligned",
    "raw_firing_aligned",
    "hold1",
    "hold10",
    "ceiling10",
    "shuffled10",
    "mass",
    "ceiling_mass",
    "holds",
    "embedding_at",
}


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    url = make_cache(tmp_path_factory.mktemp("cache"), rows=600).url
    return Grid(
        cache=url,
        lambdas={"published": (1e-4,), "default": (0.5,)},
        layers=(1,),
        seeds=(0, 1),
        steps=6,
        batch=32,
        d_sae=32,
        k=3,
    )


@pytest.fixture(scope="module")
def found(grid, tmp_path_factory):
    """Rows of the grid, their file and the lines that were told."""
    file, told = tmp_path_factory.mktemp("out") / "rows.jsonl", []
    return run_points(grid, file, told.append), file, told


@pytest.mark.slow
def test_rows_say_what_was_trained_and_measured(found, grid):
    rows, _, told = found
    names = [(row["recipe"], row["lambda"], row["seed"]) for row in rows]
    assert names == [
        (name, weight, seed)
        for seed in (0, 1)
        for name, weight in (("published", 1e-4), ("default", 0.5))
    ]
    for row in rows:
        assert row.keys() >= KEYS and row["layer"] == 1 and row["steps"] == 6
        assert row["variance_explained"] < 1 and 0 <= row["dead_fraction"] <= 1
    assert rows[0]["anchor"] == "input embeddings"
    assert rows[1]["anchor"] == "layer anchors (both, encoder)"
    # The published recipe names by raw embeddings, so its raw figures are its figures.
    assert rows[0]["raw_firing_aligned"] == rows[0]["firing_aligned"]
    assert len(told) == 4 and told[0].startswith("published lambda 0.0001 layer 1 seed 0")


@pytest.mark.slow
def test_finished_points_are_read_and_not_trained_again(found, grid):
    rows, file, _ = found
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:3]) + "\n")
    told: list[str] = []
    again = run_points(grid, file, told.append)
    assert len(told) == 1
    # Trained again, the fourth point is the same to the last bit, but for the time it took.
    assert [{**row, "seconds": 0} for row in again] == [{**row, "seconds": 0} for row in rows]
    assert len(read_rows(file)) == 4


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.filterwarnings("ignore:Error .*ing persistent compilation cache")
def test_a_disk_that_fills_keeps_the_points_before(grid, tmp_path):
    file, told = tmp_path / "rows.jsonl", []
    two = replace(grid, lambdas={"published": (1e-4,)})
    run_points(replace(two, seeds=(0,)), file, told.append)
    kept = file.read_bytes()
    with full_beyond(len(kept)), pytest.raises(UserError, match=r"cannot write .*rows\.jsonl"):
        run_points(two, file, told.append)
    assert file.read_bytes() == kept and len(told) == 1
    assert len(run_points(two, file, told.append)) == len(told) == 2


@pytest.mark.slow
def test_the_table_has_a_line_for_each_point_and_spreads_over_seeds(found):
    lines = table(found[0]).splitlines()
    assert len(lines) == 4 and lines[2].startswith("| 1 | published | 0.0001 | 2 |")
    assert "±" in lines[2]


@pytest.mark.slow
def test_the_figure_is_the_same_every_time_and_is_not_overwritten(found, tmp_path):
    one = frontier_figure(found[0], tmp_path / "a.png").read_bytes()
    assert one == frontier_figure(found[0], tmp_path / "b.png").read_bytes()
    with pytest.raises(UserError, match=r"a\.png"):
        frontier_figure(found[0], tmp_path / "a.png")


def test_wrong_grids_and_files_are_refused_before_training(grid, tmp_path):
    file = tmp_path / "rows.jsonl"
    with pytest.raises(UserError, match="recipe best is not known; expected one of plain"):
        run_points(replace(grid, lambdas={"best": (1.0,)}), file, print)
    with pytest.raises(UserError, match="layer 2 is not in cache"):
        run_points(replace(grid, layers=(2,)), file, print)
    file.write_text("{}\n")
    with pytest.raises(UserError, match="does not hold rows of a frontier"):
        run_points(grid, file, print)


@pytest.mark.slow
def test_the_tool_prints_json_and_refuses_with_exit_code_2(grid, tmp_path, monkeypatch, capsys):
    main = runpy.run_path(str(TOOL))["main"]
    sizes = ["--steps", "3", "--batch", "32", "--d-sae", "32", "--k", "3"]
    base = [str(TOOL), "--out", str(tmp_path / "out"), *sizes]
    monkeypatch.setattr(sys, "argv", [*base, "--cache", grid.cache, "--quick", "--json"])
    main()
    rows = json.loads(capsys.readouterr().out)
    assert [row["recipe"] for row in rows] == ["published", "default"]
    assert rows[0]["layer"] == 3  # the middle one of two
    assert (tmp_path / "out" / "frontier.png").exists()
    monkeypatch.setattr(sys, "argv", [*base, "--cache", str(tmp_path)])
    with pytest.raises(SystemExit) as refused:
        main()
    assert refused.value.code == 2
    assert "is no activation cache" in capsys.readouterr().err
