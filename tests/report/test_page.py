"""The folder of a report, without a browser: its data, what is refused, what is never executed."""

import base64
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import report_fixtures as made

from vasae_jax.evaluation.examples.collect import BEFORE
from vasae_jax.report.page.build import build_page
from vasae_jax.report.page.run_files import (
    SHARD,
    column,
    integers,
    search_lines,
    sparkline,
    used_bins,
)
from vasae_jax.report.run_report import match_features
from vasae_jax.utils.errors import UserError

F, V = 100, 60


@pytest.fixture(scope="module")
def reports():
    return [made.report(F, V, layer, layer) for layer in (3, 9)]


@pytest.fixture(scope="module")
def folder(reports, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "page"
    return build_page(out, reports, match_features(reports), made.heatmaps(reports)).parent


def read(path):
    """The key and value of a data file."""
    text = path.read_bytes().decode("ascii")
    key, body = re.fullmatch(r'vasae\.put\("([^"]*)",(.*)\);\n', text, re.S).groups()
    return key, json.loads(body)


def unpack(packed):
    flat = np.frombuffer(base64.b64decode(packed["data"]), f"<{packed['type']}")
    return flat.reshape(packed["shape"]).astype(np.float64) - packed.get("less", 0)


@pytest.mark.fault
def test_every_data_file_is_one_ascii_call_named_as_the_file(folder):
    files = sorted((folder / "data").rglob("*.js"))
    assert len(files) == 2 * (2 + -(-F // SHARD)) + 3
    for path in files:
        key, _ = read(path)
        assert folder / "data" / f"{key}.js" == path


def test_columns_are_the_arrays_of_the_report(folder, reports):
    report = reports[1]
    _, table = read(folder / "data" / "layer-9" / "table.js")
    found = report.dictionary
    for name, array in (
        ("hold", np.where(found.verdict == 0, 0, found.layer_hold[:, 0])),
        ("hold_together", found.hold),
        ("rate", found.fire_rate),
        ("names", np.where(found.layer_verdict == 0, -1, found.layer_token_ids)[:, :3]),
        ("verdict", found.verdict),
        ("token", found.token_ids[:, 0]),
    ):
        np.testing.assert_allclose(unpack(table[name]), array, rtol=1e-6)
    _, shard = read(folder / "data" / "layer-9" / "features-1.js")
    part = slice(SHARD, F)
    np.testing.assert_array_equal(unpack(shard["text"]), report.examples.tokens[part])
    np.testing.assert_array_equal(unpack(shard["near"]), report.near.ids[part])
    np.testing.assert_array_equal(unpack(shard["together"]), report.cofiring.ids[part])
    most = report.examples.value[part].max(axis=1)[:, None, None]
    shade = unpack(shard["shade"]) / 255 * most
    np.testing.assert_allclose(shade, report.examples.shade[part], atol=most.max() / 400)
    ids = unpack(shard["matches"]["layer-3"]["ids"])
    np.testing.assert_array_equal(
        ids, match_features(reports)["layer-9"]["layer-3"].ids[part, 0].astype(float)
    )


def test_a_run_is_matched_with_the_four_that_stand_nearest_to_it():
    reports = [made.report(20, V, layer) for layer in range(7)]
    found = match_features(reports)
    assert set(found["layer-0"]) == {"layer-1", "layer-2", "layer-3", "layer-4"}
    assert set(found["layer-3"]) == {"layer-1", "layer-2", "layer-4", "layer-5"}


def test_a_line_is_searched_for_each_feature_with_its_other_names_and_text(reports):
    report = reports[0]
    lines = list(search_lines(report))
    assert len(lines) == F and not any("\n" in line for line in lines)
    for feature in (0, 17, 60):
        for token in report.dictionary.layer_token_ids[feature, 3:]:
            shown = report.vocab.display(int(token)).replace("␣", " ").lower()
            assert shown in lines[feature]
        context = report.examples.tokens[feature, 0]
        words = [report.vocab.display(int(t)).replace("␣", " ") for t in context if t >= 0]
        assert "".join(words).lower() in lines[feature]


def test_the_index_and_the_heatmaps_say_what_was_given(folder, reports):
    _, index = read(folder / "data" / "index.js")
    assert [one["key"] for one in index["runs"]] == ["layer-3", "layer-9"]
    assert index["runs"][0]["matched"] == ["layer-9"]
    assert index["runs"][0]["firing"] == (reports[0].dictionary.fire_rate > 0).sum()
    assert "not why" in index["layer_claim"] and "2606.27941" in index["bibtex"]
    _, heatmaps = read(folder / "data" / "heatmaps.js")
    kinds = [one["kind"] for one in heatmaps]
    assert kinds == ["clear"] * 5 + ["ambiguous"] * 2 + ["boundary"]
    line = heatmaps[0]["modes"]["centred"][1]
    assert len(line["feature"]) == len(heatmaps[0]["tokens"]) and line["feature"][0] == -1


def test_the_policy_lets_nothing_in_and_no_script_makes_markup(folder):
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'" in page
    assert not re.search(r"<script[^>]*>[^<]|\son\w+=|<style|style=", page)
    named = re.findall(r'(?:src|href)="([^"#]+)"', page)
    assert named and all((folder / name).exists() for name in named)
    for script in folder.glob("*.js"):
        text = script.read_text(encoding="utf-8")
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|eval\(|https?://(?!www\.w3)", text
        )


def test_widths_that_differ_are_not_matched(reports):
    narrow = made.report(F, V, 5)
    rows = np.ones((F, 9), np.float32)
    wide = replace(narrow, dictionary=replace(narrow.dictionary, W_dec=rows))
    found = match_features([reports[0], wide])
    assert found["layer-3"] == {} and found["layer-5"] == {}


def test_whole_numbers_take_the_smallest_type_and_are_never_cut():
    for largest, kind in ((254, "u1"), (255, "u2"), (65534, "u2"), (65535, "i4")):
        packed = integers(np.array([-1, largest]))
        assert packed["type"] == kind
        np.testing.assert_array_equal(unpack(packed), [-1, largest])
    with pytest.raises(ValueError, match="do not fit into u1"):
        column(np.array([256]), "u1")


def test_a_sparkline_has_few_columns_and_its_highest_is_one():
    histogram = np.zeros((2, 40), int)
    histogram[0, 3], histogram[0, 4], histogram[0, 30] = 1, 1, 4
    assert used_bins(histogram) == (3, 31)
    line = sparkline(histogram[:, 3:31])
    assert line.shape == (2, 14) and line[0, 0] == 0.5 and line[0, -1] == 1 and not line[1].any()


def test_only_the_folder_of_a_report_is_replaced(folder, reports, tmp_path):
    given = (reports, match_features(reports))
    with pytest.raises(UserError, match="exists already"):
        build_page(folder, *given)
    before = (folder / "data" / "index.js").stat().st_mtime_ns
    build_page(folder, *given, made.heatmaps(reports), overwrite=True)
    assert (folder / "data" / "index.js").stat().st_mtime_ns > before
    (tmp_path / "thesis.txt").write_text("precious", encoding="utf-8")
    with pytest.raises(UserError, match="holds no report"):
        build_page(tmp_path, *given, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.fault
def test_of_a_report_only_what_was_written_is_replaced(reports, tmp_path, monkeypatch):
    given, page = (reports, match_features(reports)), tmp_path / "page"
    build_page(page, *given)
    (page / "CNAME").write_text("precious", encoding="utf-8")
    (page / ".git").mkdir()
    with pytest.raises(UserError, match="git repository"):
        build_page(page, *given, overwrite=True)
    (page / ".git").rmdir()
    monkeypatch.chdir(page)
    with pytest.raises(UserError, match="working directory"):
        build_page(".", *given, overwrite=True)
    monkeypatch.chdir(tmp_path)
    (page / "data" / "of-a-run-before.js").write_text("old", encoding="utf-8")
    build_page(page, *given, overwrite=True)
    assert (page / "CNAME").read_text(encoding="utf-8") == "precious" and (
        page / "index.html"
    ).is_file()
    assert not (page / "data" / "of-a-run-before.js").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["page"]


@pytest.mark.fault
def test_an_index_of_something_else_is_no_report(reports, tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("index.html", "data/index.js"):
        (tmp_path / name).write_text("precious", encoding="utf-8")
    with pytest.raises(UserError, match="holds no report"):
        build_page(tmp_path, reports, match_features(reports), overwrite=True)
    assert (tmp_path / "data" / "index.js").read_text(encoding="utf-8") == "precious"


@pytest.mark.fault
def test_a_folder_that_cannot_be_filled_leaves_nothing(reports, tmp_path, monkeypatch):
    monkeypatch.setattr("vasae_jax.report.page.build.write_run", full_disk)
    with pytest.raises(UserError, match="No space left"):
        build_page(tmp_path / "page", reports, match_features(reports))
    assert not list(tmp_path.iterdir())


def full_disk(*_):
    raise OSError(28, "No space left on device")


def test_made_up_reports_mark_the_firing_token(reports):
    shown = reports[0].examples
    fires = shown.value[:, 0] > 0
    np.testing.assert_array_equal(
        shown.tokens[fires, 0, BEFORE], reports[0].dictionary.layer_token_ids[fires, 0]
    )
