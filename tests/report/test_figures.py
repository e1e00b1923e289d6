"""Figures: their data is what the reports hold, and a file is the same every time."""

import csv
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import report_fixtures as made

from vasae_jax.config import Config
from vasae_jax.report.figures import sweep as sweep_figures
from vasae_jax.report.figures.alignment import alignment_figure
from vasae_jax.report.figures.chart import save_figure, unstyled, write_chart
from vasae_jax.report.figures.heatmap import heatmap_figure
from vasae_jax.report.heatmap import Case
from vasae_jax.report.labels import Source, make_labels
from vasae_jax.report.make import all_charts


@pytest.fixture(scope="module")
def reports():
    one, two = (made.report(80, 60, layer, layer) for layer in (3, 9))
    plain = replace(two.config, sae=replace(two.config.sae, method="plain"))
    return [one, replace(two, config=plain)]


@pytest.fixture(scope="module")
def charts(reports):
    return {chart.name: chart for chart in all_charts(reports)}


def lines(chart):
    return [dict(zip(chart.head, line, strict=True)) for line in chart.lines]


def test_alignment_keeps_methods_and_firing_features_apart(charts, reports):
    found = lines(charts["alignment"])
    for report, method in zip(reports, ("soft", "plain"), strict=True):
        cosines, rate = report.dictionary.cosines[:, 0], report.dictionary.fire_rate
        for which, some in (("dictionary", cosines), ("firing", cosines[rate > 0])):
            mine = [x for x in found if (x["method"], x["features"]) == (method, which)]
            aligned = sum(x["share"] for x in mine if x["cosine_from"] >= 0.8)
            assert sum(x["share"] for x in mine) == pytest.approx(1, abs=1e-4)
            assert aligned == pytest.approx((some >= 0.8).mean(), abs=1e-4)


def test_lines_are_the_numbers_of_the_reports(charts, reports):
    assert [x["hold10"] for x in lines(charts["hold-by-run"])] == [0.5, 0.5]
    assert [x["variance_explained"] for x in lines(charts["frontier"])] == [0.8, 0.8]
    cut = lines(charts["alignment-by-run"])[1]
    some = reports[1].dictionary.cosines[reports[1].dictionary.fire_rate > 0, 0]
    assert cut["median"] == pytest.approx(np.median(some), abs=1e-4)
    first = lines(charts["coverage"])[0]
    shown = (reports[0].dictionary.fire_rate > 0) & (reports[0].dictionary.verdict != 0)
    assert first["layer_names"] == len(set(reports[0].dictionary.layer_token_ids[shown, 0]))
    by_position = [x for x in lines(charts["loss-by-position"]) if x["run"] == "layer 3"]
    assert [x["position_in_the_window"] for x in by_position] == list(range(1, 20))
    shares = [x["share_of_firing_features"] for x in lines(charts["density"])]
    assert sum(shares) == pytest.approx(2, abs=1e-4)


def test_one_run_without_metrics_has_no_frontier_and_no_curves(reports):
    names = [chart.name for chart in all_charts([replace(reports[0], curves=[])])]
    assert "frontier" not in names and "learning-curves" not in names and len(names) == 6


def test_the_same_chart_gives_the_same_files(charts, tmp_path):
    for place in ("a", "b"):
        write_chart(charts["coverage"], tmp_path / place)
    for kind in ("png", "svg", "csv"):
        one, two = ((tmp_path / place / f"coverage.{kind}").read_bytes() for place in "ab")
        assert one == two
    rows = list(csv.reader((tmp_path / "a" / "coverage.csv").open(encoding="utf-8")))
    assert rows[0] == list(charts["coverage"].head) and len(rows) == 3


HOSTILE = "$\\frac$ a$b^c$ \x1b[2J\u202eb\ud800"
SHOWN = r"$\frac$ a$b^c$ \x1b[2J\u202eb\ud800"


def hostile_reports(reports):
    """The reports, their runs called by hostile names of a folder and of a model."""
    runs = [Source(Path(f"={HOSTILE}{n}"), Config(), HOSTILE) for n in range(len(reports))]
    labels = make_labels(runs)
    return [replace(one, label=label) for one, label in zip(reports, labels, strict=True)]


def drawn(path):
    """The texts of an SVG file, each of which is a comment before its letters."""
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    parts = ElementTree.parse(path, parser).iter()
    return {part.text.strip() for part in parts if part.tag is ElementTree.Comment}


@pytest.mark.fault
def test_names_of_runs_are_text_in_every_figure_and_its_data(reports, tmp_path):
    charts = all_charts(hostile_reports(reports))
    found = {}
    for chart in charts:
        write_chart(chart, tmp_path)
        found[chart.name] = " ".join(drawn(tmp_path / f"{chart.name}.svg"))
        data = (tmp_path / f"{chart.name}.csv").read_text(encoding="utf-8")
        assert not set(data + found[chart.name]) & set("\x1b\u202e\ud800")
    named = [name for name, text in found.items() if r"\frac$" in text and r"\u202eb" in text]
    assert {"hold-by-run", "frontier", "coverage", "density"} <= set(named)


@pytest.mark.fault
def test_a_cell_that_begins_as_a_formula_does_is_text(reports, charts, tmp_path):
    lines = [("=HYPERLINK(1)", *line[1:]) for line in charts["coverage"].lines]
    write_chart(replace(charts["coverage"], lines=lines), tmp_path)
    rows = list(csv.reader((tmp_path / "coverage.csv").open(encoding="utf-8")))
    assert rows[1][0] == "'=HYPERLINK(1)" and int(rows[1][1]) == lines[0][1]


@pytest.mark.fault
def test_a_heatmap_shows_its_sentence_and_model_as_text(reports, tmp_path):
    grid = made.heatmaps(hostile_reports(reports))[0]
    grid = replace(grid, case=Case("own", HOSTILE), tokens=tuple("$x" for _ in grid.tokens))
    heatmap_figure(grid, "raw", tmp_path / "h.svg")
    texts = drawn(tmp_path / "h.svg")
    assert f"test/tiny: {SHOWN}" in texts and "$x" in texts
    assert any(text.replace(".", "").isdigit() for text in texts)  # the scale's, without powers


@pytest.mark.fault
def test_the_figures_of_a_dictionary_and_of_a_sweep_show_text(reports, tmp_path):
    found = reports[0].dictionary
    origin = {**found.meta["provenance"], "model": {"id": HOSTILE}}
    meta = {**found.meta, "provenance": origin, "anchor": HOSTILE}
    alignment_figure(replace(found, meta=meta), tmp_path / "alignment.png")
    rows = [
        {"data.layer": 1, "data.cache": f"{n}{HOSTILE}", "x.hold1": n, "x.fvu": n} for n in (1, 2)
    ]
    with unstyled():
        figure = sweep_figures._frontier(rows, "data.cache", ("x.hold1", "x.fvu"))
        save_figure(figure, tmp_path / "f.svg", "svg")
    assert f"cache 1{SHOWN}" in drawn(tmp_path / "f.svg")
