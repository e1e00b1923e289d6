"""Several processes that add points to one sweep at once: none is lost, and the table has all.

Nothing is trained.
"""

import csv
from concurrent.futures import ThreadPoolExecutor

import pytest
from cache_fixtures import make_cache
from sweep_fixtures import make_base

from vasae_jax.sweep import grid, points, run
from vasae_jax.sweep.points import add_members, members_of, read_members
from vasae_jax.sweep.run import train_points
from vasae_jax.utils.errors import UserError

pytestmark = pytest.mark.fault


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    made = make_cache(tmp_path_factory.mktemp("shared"), rows=300, heldout=100, layers=(1,))
    return make_base(made.url)


def in_table(out):
    with open(out / "sweep.csv", encoding="utf-8") as file:
        return {float(row["anchor.weight"]) for row in csv.DictReader(file)}


def test_a_point_that_another_process_adds_meanwhile_stays(base, tmp_path, monkeypatch):
    def other_process(packs):
        monkeypatch.setattr(run, "train_packs", lambda packs: None)
        train_points(base, [{"anchor.weight": 2.0}], str(tmp_path))

    monkeypatch.setattr(run, "train_packs", other_process)
    train_points(base, [{"anchor.weight": 1.0}], str(tmp_path))
    assert {one.config.anchor.weight for one in read_members(tmp_path)} == {1.0, 2.0}
    assert in_table(tmp_path) == {1.0, 2.0}


def test_of_many_writers_none_loses_a_point(base, tmp_path):
    members = members_of(base, grid.axis("anchor.weight", *range(24)), str(tmp_path))
    with ThreadPoolExecutor(8) as writers:
        list(writers.map(lambda one: add_members(tmp_path, [one]), members))
    assert {one.id for one in read_members(tmp_path)} == {one.id for one in members}


def test_a_writer_that_never_ends_is_named(base, tmp_path, monkeypatch):
    monkeypatch.setattr(points, "LOCK_SECONDS", 0.1)
    members = members_of(base, grid.axis("anchor.weight", 1.0), str(tmp_path))
    with points.sweep_lock(tmp_path), pytest.raises(UserError, match=r"sweep\.lock"):
        add_members(tmp_path, members)
    add_members(tmp_path, members)
    assert len(read_members(tmp_path)) == 1


def test_a_settings_file_of_the_sweep_is_named_where_it_is_damaged(base, tmp_path):
    (tmp_path / "sweep.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"sweep\.json"):
        train_points(base, [{"anchor.weight": 1.0}], str(tmp_path))
    assert (tmp_path / "sweep.json").read_text(encoding="utf-8") == "{"
