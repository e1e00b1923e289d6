"""Combinators, typed points, ids and names."""

from dataclasses import replace

import numpy as np
import pytest
from cache_fixtures import make_cache
from sweep_fixtures import make_base, make_points

from vasae_jax.config import Config
from vasae_jax.sweep import grid, load_sweep
from vasae_jax.sweep.points import (
    apply_point,
    id_of,
    members_of,
    read_members,
    varied,
    with_names,
    write_members,
)
from vasae_jax.utils.errors import UserError


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return make_cache(tmp_path_factory.mktemp("grid"), rows=300, layers=(1, 3)).url


def test_combinators_are_what_itertools_says():
    k, seed = grid.axis("sae.k", 1, 2, 3), grid.axis("run.seed", 0, 1)
    assert [tuple(point.values()) for point in grid.product(k, seed)] == [
        (1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1),
    ]  # fmt: skip
    side = grid.zip(k, grid.axis("optim.lr", 3e-3, 2e-3, 1e-3))
    assert side[1] == {"sae.k": 2, "optim.lr": 2e-3} and len(side) == 3
    assert grid.chain(seed, k) == seed + k
    few = grid.where(grid.product(k, seed), lambda point: point["sae.k"] + point["run.seed"] > 2)
    assert [tuple(point.values()) for point in few] == [(2, 1), (3, 0), (3, 1)]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda a, b: grid.zip(a, b), r"zip has grids of \[3, 2\] points"),
        (lambda a, b: grid.product(a, a), "two axes set sae.k"),
        (lambda a, b: grid.axis("sae.k"), "axis sae.k has no values"),
    ],
)
def test_grids_that_do_not_fit_are_refused(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make(grid.axis("sae.k", 1, 2, 3), grid.axis("run.seed", 0, 1))


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("sae.k", 3.0, r"point 7 sets sae.k to 3.0 \(float\); expected a whole number"),
        ("sae.k", True, r"sets sae.k to True \(bool\); expected a whole number"),
        ("sae.k", np.int64(3), r"sets sae.k to .* \(int64\); expected a whole number"),
        ("optim.lr", "1e-3", r"expected a finite number"),
        ("optim.loss", "mean", "expected one of 'variance', 'mse'"),
        ("data.seed", 1.5, "expected a whole number or None"),
        ("mesh.data", "many", "expected a whole number or one of 'auto'"),
        ("sae.kk", 3, "point 7 sets sae.kk, which is no setting; did you mean sae.k?"),
        ("k", 3, "did you mean sae.k?"),
        ("data.lanes", 3, "did you mean data.readers?"),
        ("run.out", "x", "point 7 sets run.out; expected a setting that shapes its run"),
    ],
)
def test_a_wrong_setting_names_the_point_and_what_was_expected(name, value, sentence):
    with pytest.raises(UserError, match=sentence):
        apply_point(Config(), {name: value}, 7)


def test_a_whole_number_is_a_float_and_none_is_a_seed():
    config = apply_point(Config(), {"optim.lr": 1, "data.seed": None, "mesh.data": "auto"}, 0)
    assert config.optim.lr == 1 and config.data.seed is None


def test_ids_last_and_names_say_what_varies(cache, tmp_path):
    base = make_base(cache)
    members = members_of(base, make_points(), str(tmp_path))
    assert [one.name for one in members] == [
        "k=2 weight=0.5", "k=4 weight=0.5", "k=2 weight=2", "k=4 weight=2",
    ]  # fmt: skip
    assert len({one.id for one in members}) == 4
    elsewhere = replace(base, run=replace(base.run, log_every=1), mesh=replace(base.mesh, model=4))
    more = members_of(elsewhere, make_points(layers=(3, 1)), str(tmp_path / "other"))
    # Another directory, mesh and rate of logging, and more points: the same runs.
    assert {one.id for one in members} < {one.id for one in more}
    assert id_of(base, "another cache") != id_of(base, "cache")
    assert varied([one.config for one in more]) == ["data.layer", "sae.k", "anchor.weight"]
    two_seeds = grid.zip(grid.axis("data.seed", 0, 1), grid.axis("run.seed", 0, 1))
    found = members_of(base, grid.chain(two_seeds, two_seeds), str(tmp_path))
    assert [one.name for one in found] == ["data.seed=0 run.seed=0", "data.seed=1 run.seed=1"]
    assert [one.name for one in with_names(found[:1])] == ["the base"]


def test_numbers_that_are_equal_are_one_run(cache, tmp_path):
    base = make_base(cache)
    same = (8, 8.0, np.float64(8))
    points = grid.chain(grid.axis("anchor.weight", *same), grid.axis("optim.warmup", 0.0, -0.0))
    members = members_of(base, points, str(tmp_path))
    assert [type(one.config.anchor.weight) for one in members] == [float, float]
    whole = replace(base, anchor=replace(base.anchor, weight=8))
    assert id_of(whole, "cache") == id_of(members[0].config, "cache")
    assert members_of(whole, ({},), str(tmp_path))[0].id == members[0].id


def test_a_sweep_reads_back_wherever_it_lies(cache, tmp_path):
    members = members_of(make_base(cache), make_points(), str(tmp_path / "a"))
    write_members(tmp_path / "a", members)
    (tmp_path / "a").rename(tmp_path / "b")
    back = read_members(tmp_path / "b")
    assert [one.id for one in back] == [one.id for one in members]
    assert back[0].path == tmp_path / "b" / "runs" / members[0].id
    (tmp_path / "b" / "sweep.json").write_text('{"points": [{}]}', encoding="utf-8")
    with pytest.raises(UserError, match=r"sweep.json is damaged"):
        read_members(tmp_path / "b")
    with pytest.raises(UserError, match=r"holds no sweep.json"):
        read_members(tmp_path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sweep = 3", "has sweep = int; expected"),
        ("1 / 0", "fails: ZeroDivisionError"),
        ("from vasae_jax.sweep import grid\ngrid.axis('sae.k')", "grid.py: axis sae.k has no"),
    ],
)
def test_a_file_that_defines_no_sweep_is_refused(tmp_path, text, sentence):
    file = tmp_path / "grid.py"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=sentence):
        load_sweep(str(file))
    with pytest.raises(UserError, match="is not there"):
        load_sweep(str(tmp_path / "none.py"))
