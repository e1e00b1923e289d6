"""The table of a sweep by its columns: what a key means, which run is the best, and in which order.

The rows are made by hand; nothing is trained.
"""

import csv
from dataclasses import replace
from fnmatch import fnmatchcase

import pytest

from vasae_jax.config import Config, DataConfig, RunConfig
from vasae_jax.evaluation.measures import MEASURES, better
from vasae_jax.report.figures.sweep import front_of
from vasae_jax.sweep.points import Member, with_names
from vasae_jax.sweep.table import (
    best_row,
    column,
    format_rows,
    select_rows,
    sorted_rows,
    table,
    write_table,
)
from vasae_jax.utils.errors import UserError

pytestmark = pytest.mark.fault
SAE = "lm.patched.unmasked_rows.sae"


def make_rows():
    """Three runs: "b" is the best by every measure."""
    numbers = {
        "unmasked.fvu": (0.4, 0.1, 0.3),
        "unmasked.variance_explained": (0.6, 0.9, 0.7),
        "all_rows.fvu": (0.5, 0.2, 0.4),
        "unmasked.l0": (7.0, 8.0, 9.0),
        "unmasked.dead": (3, 1, 2),
        "unmasked.rows": (90, 90, 90),
        "names.layer.all.hold10": (0.2, 0.5, 0.3),
        "names.layer.at.hold10": (0.3, 0.6, 0.5),
        "names.layer.all.shuffled10": (0.02, 0.01, 0.03),
        "lm.ce": (3.0, 3.0, 3.0),
        f"{SAE}.ce": (3.3, 3.1, 3.2),
        f"{SAE}.kl": (0.3, 0.1, 0.2),
        f"{SAE}.ce_recovered": (0.7, 0.9, 0.8),
        "lm.patched.unmasked_rows.mean.kl": (5.0, 5.0, 5.0),
        "sae.k": (32, 8, 16),
    }
    rows = [{"id": name, "status": "done"} for name in "abc"]
    for key, values in numbers.items():
        for row, value in zip(rows, values, strict=True):
            row[key] = value
    return rows


@pytest.mark.parametrize(
    "key",
    [
        "unmasked.fvu",
        "unmasked.variance_explained",
        "unmasked.dead",
        "names.layer.all.hold10",
        "names.layer.all.shuffled10",
        f"{SAE}.ce",
        f"{SAE}.kl",
        f"{SAE}.ce_recovered",
        "sae.kl",
        "sae.ce",
    ],
)
def test_the_best_run_is_that_of_the_direction_of_each_measure(key):
    assert best_row(make_rows(), key)["id"] == "b"
    assert sorted_rows(make_rows(), key)[0]["id"] == "b"


@pytest.mark.parametrize(
    ("key", "candidates"),
    [
        ("fvu", ["unmasked.fvu", "all_rows.fvu"]),
        ("hold10", ["names.layer.all.hold10", "names.layer.at.hold10"]),
        ("ce", ["lm.ce", f"{SAE}.ce"]),
    ],
)
def test_a_key_of_several_columns_is_refused_with_all_of_them(key, candidates):
    rows = make_rows()
    for use in (column, best_row, sorted_rows, lambda r, k: select_rows(r, [f"{k}>0"])):
        with pytest.raises(UserError) as refused:
            use(rows, key)
        assert all(name in str(refused.value) for name in candidates)
    assert column(rows, "all.hold10") == "names.layer.all.hold10"


def test_a_key_of_no_column_is_refused():
    for key in ("fvuu", "unmasked", "10", ""):
        with pytest.raises(UserError):
            sorted_rows(make_rows(), key)


@pytest.mark.parametrize("key", ["l0", "unmasked.rows", "lm.ce", "mean.kl", "sae.k", "id"])
def test_what_has_no_better_value_has_no_best_run(key):
    with pytest.raises(UserError):
        best_row(make_rows(), key)


def test_a_best_of_runs_that_are_equal_or_not_all_measured_is_refused():
    rows = make_rows()
    for row in rows:
        row["unmasked.fvu"] = 0.5
    with pytest.raises(UserError):
        best_row(rows, "unmasked.fvu")
    assert best_row(rows[:1], "unmasked.fvu")["id"] == "a"
    rows = make_rows()
    rows[1]["unmasked.fvu"] = None
    with pytest.raises(UserError, match="b"):
        best_row(rows, "unmasked.fvu")
    assert [row["id"] for row in sorted_rows(rows, "unmasked.fvu")] == ["c", "a"]


def test_settings_and_counts_are_in_ascending_order():
    rows = make_rows()
    assert [row["id"] for row in sorted_rows(rows, "sae.k")] == ["b", "c", "a"]
    assert [row["id"] for row in sorted_rows(rows, "l0")] == ["a", "b", "c"]
    rows[0]["sae.k"] = "auto"
    assert [row["id"] for row in sorted_rows(rows, "sae.k")] == ["b", "c", "a"]
    assert format_rows(rows, ["id"], "id").split() == ["id", "a", "b", "c"]


def test_no_measure_has_two_directions():
    for name in (each.replace("*", "x") for names in MEASURES.values() for each in names):
        found = {way for way, names in MEASURES.items() if any(fnmatchcase(name, n) for n in names)}
        assert len(found) == 1, name
    assert better("sae.k") is None and better("optim.lr") is None


def test_the_frontier_goes_by_the_direction_of_both_measures():
    points = [(0.1, 0.2), (0.2, 0.1), (0.2, 0.3), (0.3, 0.3), (0.1, 0.4)]
    more = ("unmasked.variance_explained", "names.layer.all.hold10")
    assert front_of(points, more) == [(0.1, 0.4), (0.3, 0.3)]
    assert front_of(points, ("unmasked.fvu", f"{SAE}.kl")) == [(0.1, 0.2), (0.2, 0.1)]
    assert front_of(points, ("unmasked.fvu", "names.layer.all.hold10")) == [(0.1, 0.4)]
    assert front_of(points, ("unmasked.l0", "unmasked.fvu")) == []


HOSTILE = "=1+1\x1b[2J\n\u202e"


def test_a_table_shows_text_that_moves_no_cursor_and_is_no_formula(tmp_path):
    rows = [{"id": "a", "name": HOSTILE, "unmasked.fvu": -1.0}]
    text = format_rows(rows, ["id", "name"], None)
    assert text.splitlines()[1] == r"a   =1+1\x1b[2J\x0a\u202e"
    write_table(tmp_path, rows)
    written = list(csv.reader((tmp_path / "sweep.csv").open(encoding="utf-8", newline="")))
    assert written[1] == ["a", r"'=1+1\x1b[2J\x0a\u202e", "-1.0"]


def test_rows_name_no_place_and_two_caches_apart(tmp_path):
    urls = ("/home/alice/one/cache", "/home/alice/two/cache", "gs://alice/other")
    members = with_names(
        [
            Member(str(n), "", replace(Config(), data=DataConfig(cache=url), run=RunConfig("/a/b")))
            for n, url in enumerate(urls)
        ]
    )
    rows = table(members)
    assert "alice" not in str(rows) and rows[2]["name"] == "cache=other"
    caches = [row["data.cache"] for row in rows]
    assert len(set(caches)) == 3 and all(name.startswith("cache-") for name in caches[:2])
