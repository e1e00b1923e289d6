"""How runs become packs and jobs."""

import itertools
from dataclasses import replace

import pytest
from cache_fixtures import make_cache
from sweep_fixtures import make_base

from vasae_jax.sweep.packs import (
    by_step,
    device_memory,
    in_pack_order,
    most_members,
    packs_of,
    parse_shard,
    take_shard,
)
from vasae_jax.sweep.points import Member
from vasae_jax.training.digests import ITEMS, write_digests
from vasae_jax.utils.errors import UserError


def member(number, out="runs", **data):
    base = make_base("cache")
    run = replace(base.run, out=f"{out}/{number}")
    return Member(
        str(number), f"run {number}", replace(base, run=run, data=replace(base.data, **data))
    )


def batch(one):
    return one.config.data.batch


def ids(packs):
    return ["".join(one.id for one in pack) for pack in packs]


def test_packs_hold_what_trains_together_in_equal_parts():
    shapes = [(32, 1), (64, 1), (32, 3), (32, 1), (64, 1), (32, 1), (32, 3)]
    members = [member(n, batch=b, layer=layer) for n, (b, layer) in enumerate(shapes)]
    ordered = in_pack_order(members, batch)
    assert "".join(one.id for one in ordered) == "0352614"
    assert ids(packs_of(ordered, batch, lambda _: 4)) == ["03", "526", "14"]
    assert ids(packs_of(ordered, batch, lambda _: 99)) == ["03526", "14"]
    parts = [take_shard(ordered, index, 3) for index in range(3)]
    assert ids(parts) == ["03", "52", "614"]
    assert ids(packs_of(parts[2], batch, lambda _: 99)) == ["6", "14"]


@pytest.mark.parametrize("text", ["4/4", "1", "a/2", "-1/4", "1/2/3"])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(UserError, match=r"--shard is .* expected I/N"):
        parse_shard(text)
    assert parse_shard("3/4") == (3, 4)


def test_runs_go_on_from_a_step_that_they_share(tmp_path):
    kept = {0: [4, 8], 1: [4], 2: [], 3: [8, 12], 4: [], 5: [8]}
    members = [member(number, out=tmp_path) for number in kept]
    for one, steps in zip(members, kept.values(), strict=True):
        for step, item in itertools.product(steps, ITEMS):
            (one.path / "checkpoints" / str(step) / item).mkdir(parents=True)
            write_digests(one.path / "checkpoints" / str(step) / item)
    assert ids(by_step(tuple(members))) == ["24", "01", "35"]
    assert by_step(()) == []


def test_memory_decides_how_many_runs_a_device_holds(tmp_path, monkeypatch):
    """40% of a CPU's memory holds the states of so many, and what a step and two layers need."""
    made = make_cache(tmp_path)
    config, manifest = make_base(str(made.url)), made.manifest
    one = device_memory(config, manifest, "cpu", layers=2)
    rest = one.inputs + one.gradients + one.activations
    for runs in (1, 7):
        room = (runs * one.state + rest) / 0.4
        for spare, expected in ((1.001, runs), (0.999, max(1, runs - 1))):
            monkeypatch.setattr("vasae_jax.sweep.packs.device_bytes", lambda r=room * spare: r)
            assert most_members(config, manifest, "cpu", layers=2) == expected
    several = device_memory(config, manifest, "cpu", rounds=3, layers=2)
    assert (several.state, several.inputs) == (3 * one.state, one.inputs)
