"""Figures: their data is what the reports hold, and a file is the same every time."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import report_fixtures as made

from vasae_jax.report.figures.chart import write_chart
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
