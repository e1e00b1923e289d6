"""Packs from a config file to run directories that are those of the runs alone."""

import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
from cache_fixtures import make_cache

from vasae_jax.cli.main import main
from vasae_jax.config import AnchorConfig, Config, DataConfig, MeshConfig, RunConfig, SAEConfig
from vasae_jax.config.overrides import to_dict
from vasae_jax.training import loop
from vasae_jax.training.checkpoint import Checkpoints, load_params
from vasae_jax.training.log import Log
from vasae_jax.training.loop import train
from vasae_jax.training.pack import PackStep
from vasae_jax.training.run_dir import RunDir
from vasae_jax.training.status import (
    MAX_FVU,
    MAX_LINES,
    Diverged,
    EarlyEnd,
    FvuWatch,
    read_early_end,
)
from vasae_jax.training.step import Metrics
from vasae_jax.utils.errors import UserError

STEPS = 12
ALONE = MeshConfig(data=1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return make_cache(tmp_path_factory.mktemp("cache"), rows=600, d=16, vocab=40, layers=(1,)).url


def pack_of(cache, out, mesh=ALONE):
    """Two runs that differ in lambda, learning rate and seed."""
    first = Config(
        data=DataConfig(cache=cache, layer=1, batch=32, readers=4, shuffle_chunks=2, seed=3),
        sae=SAEConfig(d_sae=32, k=3, decoder_init="random"),
        anchor=AnchorConfig(weight=0.3, search_fraction=1.0),
        mesh=mesh,
        run=RunConfig(out=str(out / "a"), steps=STEPS, log_every=5, checkpoint_every=4),
    )
    second = replace(
        first,
        anchor=replace(first.anchor, weight=0.9),
        optim=replace(first.optim, lr=3e-3),
        run=replace(first.run, out=str(out / "b"), seed=1),
    )
    return [first, second]


@pytest.fixture(scope="module")
def alone(cache, tmp_path_factory):
    """The second run of the pack, trained on its own."""
    return train(pack_of(cache, tmp_path_factory.mktemp("alone"))[1])


def everything(run):
    """Every array of a run's last checkpoint, and the numbers of its log that are no times."""
    step, params = load_params(run)
    with Checkpoints(run) as checkpoints:
        state = {**params, **checkpoints.raw(step)}
    log = [
        json.loads(line)
        for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    timed = {"rows_per_s", "read_bytes_per_s", "queued_batches", "document_bits"}
    return state, [{k: v for k, v in line.items() if k not in timed} for line in log]


def assert_equal(run, other):
    (state, log), (expected, expected_log) = everything(run), everything(other)
    assert log == expected_log and len(log) == 4
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    for leaf, value in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(value))


def train_until(configs, steps, monkeypatch):
    """Train a pack, but die after ``steps`` steps without saving."""

    class Dying(PackStep):
        def __call__(self, number, *inputs):
            if number > steps:
                raise KeyboardInterrupt
            return super().__call__(number, *inputs)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "PackStep", Dying)
        with pytest.raises(KeyboardInterrupt):
            loop.train_pack(configs)


@pytest.mark.slow
@pytest.mark.fault
def test_a_killed_pack_goes_on_together_or_alone(cache, alone, tmp_path, monkeypatch):
    configs = pack_of(cache, tmp_path)
    train_until(configs, 9, monkeypatch)
    shutil.rmtree(tmp_path / "b" / "checkpoints" / "8")  # killed in a save: only a has it
    shutil.copytree(tmp_path / "b", tmp_path / "c")
    assert loop.train_pack(configs) == [tmp_path / "a", tmp_path / "b"]
    assert_equal(tmp_path / "b", alone)
    apart = replace(configs[1], run=replace(configs[1].run, out=str(tmp_path / "c")))
    assert_equal(train(apart), alone)
    for step in (8, 12):
        shutil.rmtree(tmp_path / "b" / "checkpoints" / str(step))
    with pytest.raises(UserError, match=r"stand at different steps \(.*a at 12, .*b at 0\)"):
        loop.train_pack(configs)


@pytest.mark.slow
def test_a_config_file_with_a_list_trains_a_pack_over_a_mesh(cache, alone, tmp_path, capsys):
    runs = [to_dict(config) for config in pack_of(cache, tmp_path)]
    file = tmp_path / "pack.py"
    file.write_text(
        "from vasae_jax.config.overrides import from_dict\n"
        f"config = [from_dict(run, 'here') for run in {runs!r}]\n",
        encoding="utf-8",
    )
    arguments = ["train", str(file), "--mesh.member=2", "--mesh.model=2", "--mesh.data=auto"]
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert said.out.split() == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert "a pack of 2 soft SAEs, 2 at a time, on layers.1.resid_post" in said.err
    assert "mesh member=2 data=2 model=2" in said.err
    assert "2 of 2 runs: step 12/12" in said.err
    _, params = load_params(tmp_path / "b")
    for name, value in load_params(alone)[1].items():
        np.testing.assert_allclose(params[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_nothing_is_written_where_one_run_is_refused(cache, tmp_path):
    configs = pack_of(cache, tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "precious.txt").write_text("keep me", encoding="utf-8")
    with pytest.raises(UserError, match="b exists and holds no run"):
        loop.train_pack(configs)
    assert not (tmp_path / "a").exists()


def test_a_single_run_needs_no_member_axis(cache, tmp_path):
    with pytest.raises(UserError, match=r"--mesh.member is 2; expected 1 for a single run"):
        train(pack_of(cache, tmp_path, MeshConfig(member=2))[0])


@pytest.mark.fault
def test_a_diverged_run_is_left_at_its_last_checkpoint_and_the_others_go_on(
    cache, alone, tmp_path, capsys
):
    configs = pack_of(cache, tmp_path)
    # Half-way the rate of the first rises to where its weights overflow.
    wild = replace(configs[0].optim, lr=1e38, warmup=0.0, decay=0.0)
    configs[0] = replace(configs[0], optim=wild, anchor=configs[1].anchor)
    with pytest.raises(UserError, match=r"a diverged and were left at their last checkpoints"):
        loop.train_pack(configs)
    said = capsys.readouterr().err
    assert "has diverged at step" in said and "1 runs go on" in said
    assert_equal(tmp_path / "b", alone)
    found = read_early_end(tmp_path / "a")
    assert found.status == "diverged" and found.step <= 5
    with Checkpoints(tmp_path / "a") as kept:
        assert kept.steps() == []
    with pytest.raises(UserError, match="a diverged"):  # again: it stays so, nothing is trained
        loop.train_pack(configs)
    assert "has diverged at step" in capsys.readouterr().err


def test_a_diverging_single_run_is_named(tmp_path):
    log = Log(RunDir(tmp_path), Config(), 0)
    with pytest.raises(UserError, match="the loss is nan at step 5"):
        log.report(5, Metrics(*[np.nan] * len(Metrics._fields)), None)


def test_a_run_diverges_by_its_fvu_on_lines_in_a_row():
    watch = FvuWatch()
    good = Metrics(*[1.0] * len(Metrics._fields))
    bad = good._replace(fvu=MAX_FVU + 2.5)
    for metrics in (bad, good, *[bad] * (MAX_LINES - 1)):
        watch.check(0, metrics)
    watch.check(1, bad)  # another run
    with pytest.raises(Diverged, match=r"the fvu is 12\.5"):
        watch.check(0, bad)


def test_how_a_run_ended_is_read_from_files_of_earlier_versions(tmp_path):
    (tmp_path / "ended.json").write_text(
        '{"how": "stopped", "step": 3, "why": "behind"}', encoding="utf-8"
    )
    assert read_early_end(tmp_path) == EarlyEnd("stopped", 3, "behind")
    (tmp_path / "ended.json").write_text('{"how": "stopped"}', encoding="utf-8")
    with pytest.raises(UserError, match=r"ended\.json"):
        read_early_end(tmp_path)


@pytest.mark.slow
def test_runs_on_several_layers_are_bit_equal_to_each_alone(tmp_path):
    url = make_cache(tmp_path, rows=1500, d=16, vocab=40, layers=(1, 3, 5)).url
    base = Config(
        data=DataConfig(cache=url, batch=32, readers=4, shuffle_chunks=2, seed=3),
        sae=SAEConfig(d_sae=32, k=3),
        anchor=AnchorConfig(start=0.1, search_fraction=1.0),
        mesh=ALONE,
        run=RunConfig(steps=STEPS, log_every=5, checkpoint_every=4),
    )

    def on(layer, out, weight):
        return replace(
            base,
            data=replace(base.data, layer=layer),
            anchor=replace(base.anchor, weight=weight),
            run=replace(base.run, out=str(tmp_path / out)),
        )

    configs = [on(3, "a", 2.0), on(1, "b", 2.0), on(3, "c", 5.0), on(5, "d", 2.0)]
    loop.train_pack(configs)
    for config in configs:
        out = tmp_path / f"{config.run.out}-alone"
        train(replace(config, run=replace(config.run, out=str(out))))
        assert_equal(tmp_path / config.run.out, out)


def test_a_finished_pack_is_left_alone(cache, tmp_path, capsys):
    configs = pack_of(cache, tmp_path)
    configs = [replace(each, run=replace(each.run, steps=1)) for each in configs]
    loop.train_pack(configs)
    before = (tmp_path / "a" / "metrics.jsonl").read_text(encoding="utf-8")
    capsys.readouterr()
    assert loop.train_pack(configs) == [tmp_path / "a", tmp_path / "b"]
    assert "the pack is complete: 1 steps" in capsys.readouterr().err
    assert (tmp_path / "a" / "metrics.jsonl").read_text(encoding="utf-8") == before
