"""A sweep from its file to its table, figures and exports, and what a rerun does."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from cache_fixtures import make_cache
from full_disks import full_beyond
from sweep_fixtures import figures, make_base, make_points, make_sweep, write_file

import vasae_jax
from vasae_jax.cli.main import main
from vasae_jax.sweep import Sweep, grid
from vasae_jax.sweep.points import read_members
from vasae_jax.sweep.run import SweepOptions, find_run, run_sweep, train_points, write_results
from vasae_jax.sweep.status import run_status
from vasae_jax.sweep.table import write_table
from vasae_jax.training.checkpoint import load_params
from vasae_jax.training.loop import train
from vasae_jax.utils.errors import UserError


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    made = make_cache(tmp_path_factory.mktemp("sweep"), rows=1500, heldout=300, layers=(1, 3))
    return made.url


@pytest.fixture(scope="module")
def whole(cache, tmp_path_factory):
    """A finished sweep of four runs."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert run_sweep(make_sweep(cache, out), SweepOptions()) == [
        out / "sweep.csv",
        out / "sweep.parquet",
    ]
    return out


def test_the_table_has_a_row_a_run_with_settings_and_measures(whole):
    with open(whole / "sweep.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    again = pq.read_table(whole / "sweep.parquet").to_pylist()
    assert [row["id"] for row in rows] == [row["id"] for row in again]
    assert [row["sae.k"] for row in again] == [2, 4, 2, 4]
    assert [row["anchor.weight"] for row in again] == [0.5, 0.5, 2.0, 2.0]
    for row, one in zip(again, rows, strict=True):
        assert row["status"] == "done" and row["seconds"] > 0
        measured = json.loads(
            (whole / "runs" / row["id"] / "eval-heldout.json").read_text(encoding="utf-8")
        )
        assert row["unmasked.fvu"] == measured["unmasked"]["fvu"] == float(one["unmasked.fvu"])
        assert 0 <= row["names.layer.all.hold10"] <= 1
        assert row["unmasked.l0"] <= row["sae.k"]


def test_a_run_of_a_sweep_is_measured_as_the_run_alone_is(whole, tmp_path):
    member = read_members(whole)[3]
    config = replace(member.config, run=replace(member.config.run, out=str(tmp_path / "alone")))
    alone = train(config)
    for name, value in load_params(alone)[1].items():
        np.testing.assert_array_equal(load_params(member.path)[1][name], value)
    assert main(["eval", str(alone)]) == 0
    measured = [
        json.loads((path / "eval-heldout.json").read_text(encoding="utf-8"))
        for path in (alone, member.path)
    ]
    assert measured[0] == measured[1]


def test_status_table_and_figures(whole, capsys):
    assert main(["sweep", "status", str(whole)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("4 runs: 4 done") and "12/12" in said
    assert main(["sweep", "table", str(whole), "--sort", "unmasked.fvu", "--where", "k=4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[-2:] == ["unmasked.fvu", "sae.k"] and len(lines) == 4
    values = [float(line.split()[-2]) for line in lines[1:3]]
    assert values == sorted(values)
    assert main(["sweep", "table", str(whole), "--sort", "fvv"]) == 2
    assert "no column fvv; did you mean fvu?" in capsys.readouterr().err
    none = ["--sort", "unmasked.fvu", "--where", "k=4", "k>4"]
    assert main(["sweep", "table", str(whole), *none]) == 0
    assert "no run matches" in capsys.readouterr().out
    assert main(["sweep", "table", str(whole), "--where", "k"]) == 2
    assert "expected KEY=VALUE" in capsys.readouterr().err
    assert main(["sweep", "plot", str(whole)]) == 0
    assert (whole / "frontier.png").stat().st_size > 5000 < (whole / "axes.png").stat().st_size
    assert main(["sweep", "plot", str(whole)]) == 2
    assert "exists already" in capsys.readouterr().err
    by_k = (whole / "frontier.png").read_bytes()
    assert main(["sweep", "plot", str(whole), "--by", "weight", "--overwrite"]) == 0
    assert (whole / "frontier.png").read_bytes() != by_k
    assert main(["sweep", "plot", str(whole), "--overwrite"]) == 0
    assert (whole / "frontier.png").read_bytes() == by_k
    assert main(["sweep", "plot", str(whole), "--by", "wait", "--overwrite"]) == 2
    assert "wait" in capsys.readouterr().err


@pytest.mark.slow
def test_the_best_run_or_the_one_of_an_id_is_exported(whole, tmp_path, capsys):
    by_fvu = sorted(figures(read_members(whole)), key=lambda row: row["unmasked.fvu"])
    best = [
        "export",
        str(whole),
        "--best",
        "unmasked.fvu",
        "--out",
        str(tmp_path / "best" / "d.npz"),
    ]
    assert main(best) == 0
    one = [
        "export",
        str(whole),
        "--member",
        by_fvu[0]["id"][:6],
        "--out",
        str(tmp_path / "one" / "d.npz"),
    ]
    assert main(one) == 0
    found = [vasae_jax.read_dictionary(tmp_path / name / "d.npz") for name in ("best", "one")]
    np.testing.assert_array_equal(found[0].W_enc, found[1].W_enc)
    assert found[0].k == by_fvu[0]["sae.k"]
    capsys.readouterr()
    assert main([*one[:3], "none", *one[4:], "--overwrite"]) == 2
    assert "has 0 of: run none; expected one" in capsys.readouterr().err


def test_a_dry_run_starts_nothing(cache, tmp_path, capsys):
    file = write_file(
        tmp_path / "grid.py",
        f"make_base({cache!r})",
        "make_points(layers=(1, 3))",
        tmp_path / "out",
    )
    given = ["sweep", str(file), "--dry-run", "--max-members", "3", "--sae.d-sae=64"]
    assert main(given) == 0
    said = capsys.readouterr().out
    assert "8 runs that differ in data.layer, sae.k, anchor.weight; 0 are done; 3 packs" in said
    assert "pack 1: 2 runs on layer 1, k up to 4, in 2 rounds a step, 12 steps of 32 rows" in said
    assert "GiB a device" in said and not (tmp_path / "out").exists()
    assert main([*given, "--run.overwrite"]) == 2
    assert "a sweep keeps what is done" in capsys.readouterr().err
    assert main([*given, "--run.seed=-1"]) == 2
    assert "point " in (said := capsys.readouterr().err) and "--run.seed is -1" in said


def test_seeds_that_order_rows_are_pointed_out(cache, tmp_path, capsys):
    base = f"make_base({cache!r})"
    seeds = "grid.axis('run.seed', 0, 1), grid.axis('sae.decoder_init', 'random')"
    points = f"grid.product(grid.axis('data.seed', None), {seeds})"
    file = write_file(tmp_path / "grid.py", base, points, tmp_path / "out")
    assert main(["sweep", str(file), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "2 packs here" in said and "with one data.seed runs of all seeds share packs" in said
    seeds = "grid.axis('run.seed', 0, 1), grid.axis('sae.decoder_init', 'tokens')"
    write_file(tmp_path / "grid.py", base, f"grid.product({seeds})", tmp_path / "out")
    assert main(["sweep", str(file), "--dry-run"]) == 0
    assert "runs of several run.seed are equal" in capsys.readouterr().out


@pytest.mark.slow
def test_a_rerun_does_only_what_is_missing_in_any_number_of_jobs(cache, whole, tmp_path, capsys):
    sweep = make_sweep(cache, tmp_path / "out")
    run_sweep(sweep, SweepOptions(shard=(1, 2), max_members=1))
    members = read_members(tmp_path / "out")
    assert [run_status(one).status for one in members].count("done") == 2
    before = {
        one.id: (one.path / "config.json").stat().st_mtime_ns
        for one in members
        if one.path.exists()
    }
    wider = replace(sweep, points=make_points(weights=(0.5, 2.0, 4.0)))
    run_sweep(wider, SweepOptions())
    members = read_members(tmp_path / "out")
    assert len(members) == 6
    for key, time in before.items():
        assert (tmp_path / "out" / "runs" / key / "config.json").stat().st_mtime_ns == time
    expected = {row["id"]: row for row in figures(read_members(whole))}
    for row in figures(members)[:4]:
        assert {**row, "name": ""} == {**expected[row["id"]], "name": ""}


@pytest.mark.fault
def test_done_runs_of_other_settings_are_not_taken_for_those_of_a_sweep(cache, whole, tmp_path):
    """An id leaves out what is at its default, and a later version may have other defaults."""
    out = shutil.copytree(whole, tmp_path / "out")
    config = next((out / "runs").glob("*/config.json"))
    record = json.loads(config.read_text(encoding="utf-8"))
    record["config"]["optim"]["b1"] /= 2
    config.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(UserError, match=rf"point {config.parent.name} .* optim.b1 was "):
        run_sweep(make_sweep(cache, out), SweepOptions())


def test_a_diverging_run_fails_alone_and_says_so_in_the_table(cache, tmp_path, capsys):
    points = grid.axis("optim.lr", 4e-3, 1e38)
    base = make_base(cache, steps=8, log_every=2)
    base = replace(base, optim=replace(base.optim, warmup=0.0))
    run_sweep(Sweep(base, points, str(tmp_path / "out")), SweepOptions())
    rows = figures(read_members(tmp_path / "out"))
    assert [row["status"] for row in rows] == ["done", "diverged"]
    assert "finite" in rows[1]["why"]
    assert rows[1]["step"] == 0 and rows[1]["unmasked.fvu"] is None
    assert "has diverged" in capsys.readouterr().err
    # As a tuner sees it: no measures, and a status that says why.
    found = train_points(base, points, str(tmp_path / "out"))
    assert [one["status"] for one in found] == ["done", "diverged"]
    assert found[1] == {"id": rows[1]["id"], "status": "diverged"}
    # The best is among the runs that are done.
    with pytest.raises(UserError, match=r"unmasked\.dead_fraction"):
        find_run(tmp_path / "out", "dead_fraction", None)
    assert find_run(tmp_path / "out", "unmasked.fvu", None).name == rows[0]["id"]


@pytest.mark.slow
def test_a_tuner_gets_measures_and_its_points_are_kept(cache, tmp_path):
    base, out = make_base(cache), str(tmp_path / "out")
    first = train_points(base, [{"optim.lr": 4e-3}, {"optim.lr": 1e-3}], out)
    assert [one["status"] for one in first] == ["done", "done"]
    assert first[0]["unmasked.fvu"] != first[1]["unmasked.fvu"]
    again = train_points(base, [{"optim.lr": 1e-3}, {"optim.lr": 2e-3}], out)
    assert again[0] == first[1]
    assert [one.name for one in read_members(tmp_path / "out")] == [
        "lr=0.004", "lr=0.001", "lr=0.002",
    ]  # fmt: skip


@pytest.mark.slow
def test_tensorboard_shows_the_grid(cache, tmp_path):
    out = tmp_path / "out"
    sweep = make_sweep(cache, out, ks=(3,))
    board = replace(sweep.base, run=replace(sweep.base.run, tensorboard=True, steps=4))
    run_sweep(replace(sweep, base=board), SweepOptions())
    events = sorted((out / "tensorboard").glob("*/events.*"))
    assert {file.parent.name for file in events} == {one.id for one in read_members(out)}
    for folder in {file.parent for file in events}:  # a writer begins a second file a second later
        assert any(b"anchor.weight" in file.read_bytes() for file in folder.iterdir())
    # Written anew, of the folder only what was written is removed.
    (out / "tensorboard" / "notes.md").write_text("precious", encoding="utf-8")
    write_results(out)
    assert (out / "tensorboard" / "notes.md").read_text(encoding="utf-8") == "precious"
    (out / "tensorboard").rename(tmp_path / "elsewhere")
    (out / "tensorboard").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="link"):
        write_results(out)
    assert len(list((tmp_path / "elsewhere").glob("*/events.*"))) >= 2


@pytest.mark.fault
def test_a_disk_that_fills_keeps_the_table_before(tmp_path):
    rows = [{"id": "0", "unmasked.fvu": 0.5}]
    write_table(tmp_path, rows)
    table = (tmp_path / "sweep.csv").read_bytes()
    with full_beyond(len(table)), pytest.raises(UserError, match=r"sweep\.csv"):
        write_table(tmp_path, rows * 100)
    assert (tmp_path / "sweep.csv").read_bytes() == table
