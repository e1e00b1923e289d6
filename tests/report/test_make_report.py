"""A report of real parts: a tiny model, its cache, and SAEs over its rows."""

import json

import lm_fixtures as fx
import numpy as np
import patching_fixtures as patching
import pytest
from test_page import read

from vasae_jax.evaluation.publish import publish
from vasae_jax.lm import load_lm
from vasae_jax.report.figures.heatmap import heatmap_figure
from vasae_jax.report.heatmap import PUBLISHED, Case, case_of, cell_names, make_heatmap
from vasae_jax.report.labels import label_runs
from vasae_jax.report.make import ReportOptions, make_report
from vasae_jax.utils.errors import UserError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return patching.make_home(tmp_path_factory.mktemp("home"), fx.llama_config())


@pytest.fixture(scope="module")
def runs(home, tmp_path_factory):
    runs = []
    for seed in (0, 1):
        path = tmp_path_factory.mktemp("run")
        lines = [{"step": s, "fvu": 0.5} for s in (1, 2)]
        (path / "metrics.jsonl").write_text(
            "".join(json.dumps(x) + "\n" for x in lines) + '{"st', encoding="utf-8"
        )
        params = patching.random_params(48, features=70, seed=seed)
        runs.append((str(path), patching.make_run(home, params, k=4)))
    return label_runs(runs)


@pytest.fixture(scope="module")
def model(home):
    return load_lm(str(home.directory))


@pytest.fixture(scope="module")
def folder(runs, model, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "report"
    options = ReportOptions(str(out), split="train", texts=("an own sentence",))
    page = make_report(options, runs, model)
    assert page == out / "index.html"
    return out


def test_the_report_has_all_its_parts(folder, runs):
    _, index = read(folder / "data" / "index.js")
    keys = [one.label.key for one in runs]
    assert [report["key"] for report in index["runs"]] == keys
    assert index["runs"][0]["matched"] == keys[1:]
    assert {one["name"] for one in index["figures"]} >= {"frontier", "learning-curves", "density"}
    for figure in index["figures"]:
        for kind in ("png", "svg", "csv"):
            assert (folder / "figures" / f"{figure['name']}.{kind}").stat().st_size > 30
    assert not list(folder.parent.glob("*.progress.npz"))


def test_heatmaps_are_of_the_own_and_the_published_sentences(folder):
    _, heatmaps = read(folder / "data" / "heatmaps.js")
    assert [one["text"] for one in heatmaps] == [
        "an own sentence",
        *(case.text for case in PUBLISHED),
    ]
    for one in heatmaps:
        for lines in one["modes"].values():
            assert len(lines) == 2
            for line in lines:
                some = np.array(line["feature"]) >= 0
                assert [bool(name) for name in line["embedding"]] == some.tolist()
                # A feature without a tested name has a cell without one.
                named = np.array([bool(name) for name in line["name"]])
                assert not (named & ~some).any()
                assert [bool(word) for word in line["relation"]] == named.tolist()
    assert any(np.array(line["feature"]).max() >= 0 for line in heatmaps[1]["modes"]["raw"])


def test_a_heatmap_is_drawn_as_png_and_svg_the_same_every_time(runs, model, tmp_path):
    names = [cell_names(publish(labelled.run)[0]) for labelled in runs]
    grid = make_heatmap(runs, names, model, Case("own", "costs $5 and $6_x^2"))
    for kind, start in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        one, two = (heatmap_figure(grid, "raw", tmp_path / f"{n}.{kind}") for n in (1, 2))
        assert one.read_bytes() == two.read_bytes() and one.read_bytes().startswith(start)


def test_what_cannot_be_shown_is_refused_before_anything_is_measured(runs, home, tmp_path):
    out = tmp_path / "report"
    other = load_lm(str(fx.save_model(fx.random_model(fx.llama_config(), seed=1), tmp_path)))
    with pytest.raises(UserError, match="has weights of digest"):
        make_report(ReportOptions(str(out)), runs, other)
    with pytest.raises(UserError, match="given twice"):
        label_runs([("runs/../runs/a", runs[0].run), ("runs/a", runs[0].run)])
    with pytest.raises(UserError, match="case best is not known; expected one of names_townsend"):
        case_of("best")
    assert not out.exists()
