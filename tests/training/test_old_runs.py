"""Runs that earlier versions began: read where nothing is unknown that matters, never gone on with
in another way than they began."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cache_fixtures import make_cache

from vasae_jax.config import Config, DataConfig, MeshConfig, RunConfig, SAEConfig
from vasae_jax.config.overrides import TRAINING_ONLY, flatten, from_dict, missing_settings, to_dict
from vasae_jax.config.presets import embedding
from vasae_jax.evaluation.log import evaluate_and_log
from vasae_jax.evaluation.publish import publish
from vasae_jax.report.labels import label_runs
from vasae_jax.stream.order import VERSION
from vasae_jax.training.loop import train
from vasae_jax.training.run import open_trained
from vasae_jax.training.run_dir import CONFIG, read_run
from vasae_jax.utils.errors import UserError

pytestmark = pytest.mark.fault
OPTIONAL = ["data.seed", "optim.lr"]
OF_TRAINING = [
    name
    for name in flatten(Config())
    if {name, name.split(".")[0]} & TRAINING_ONLY and name not in OPTIONAL
]
SHAPES_RESULT = [name for name in OF_TRAINING if name.split(".")[0] not in ("run", "mesh")]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """37 chunks of 16 rows and one of 8, for 4 readers."""
    return make_cache(tmp_path_factory.mktemp("cache"), rows=600, d=16, vocab=40, layers=(1, 3)).url


@pytest.fixture(scope="module")
def trained(cache, tmp_path_factory):
    config = Config(
        data=DataConfig(cache=cache, layer=1, batch=32, readers=4, shuffle_chunks=2),
        sae=SAEConfig(d_sae=32, k=3),
        anchor=replace(embedding().anchor, search_fraction=0.1),
        mesh=MeshConfig(data=1),
        run=RunConfig(out=str(tmp_path_factory.mktemp("runs") / "run"), steps=4),
    )
    train(config)
    return config


@pytest.fixture
def old(trained, tmp_path):
    """The run, to be changed, and its settings."""
    out = shutil.copytree(trained.run.out, tmp_path / "old")
    return replace(trained, run=replace(trained.run, out=str(out)))


def change(config, edit):
    file = f"{config.run.out}/{CONFIG}"
    with open(file, encoding="utf-8") as opened:
        record = json.load(opened)
    edit(record)
    with open(file, "w", encoding="utf-8") as opened:
        json.dump(record, opened)


def drop(config, names):
    def edit(record):
        for section, name in (each.split(".") for each in names):
            del record["config"][section][name]

    change(config, edit)


def test_a_setting_that_a_file_lacks_is_unknown_and_not_the_default():
    assert len(SHAPES_RESULT) > 10
    value = to_dict(Config())
    for section, name in (each.split(".") for each in OF_TRAINING):
        del value[section][name]
    config = from_dict(value, "config.json")
    assert missing_settings(config) == OF_TRAINING
    assert missing_settings(from_dict(to_dict(config), "config.json")) == OF_TRAINING
    assert missing_settings(Config()) == []
    del value["mesh"]
    assert from_dict(value, "config.json") == config


@pytest.mark.parametrize(
    "name", sorted(set(flatten(Config())) - set(OF_TRAINING)), ids=lambda name: name
)
def test_a_setting_that_readers_go_by_is_never_assumed(name):
    value = to_dict(Config())
    section, field = name.split(".")
    del value[section][field]
    with pytest.raises(UserError, match=rf"config.json lacks {name},"):
        from_dict(value, "config.json")


@pytest.mark.parametrize("name", SHAPES_RESULT)
def test_a_run_that_lacks_a_setting_is_not_resumed(old, name):
    drop(old, [name])
    with pytest.raises(UserError, match=rf"config.json lacks {name}, .*--run.overwrite"):
        train(old)


def test_a_run_that_lacks_only_what_may_change_is_resumed(old, capsys):
    drop(old, ["mesh.member", "run.keep_every", "run.log_every"])
    train(old)
    assert "is complete: 4 steps" in capsys.readouterr().err


def test_readers_need_no_setting_of_training(trained, old):
    drop(old, OF_TRAINING)
    run, known = open_trained(old.run.out), open_trained(trained.run.out)
    assert evaluate_and_log(run, Path(old.run.out)) == evaluate_and_log(
        known, Path(trained.run.out)
    )
    dictionary, expected = publish(run)[0], publish(known)[0]
    np.testing.assert_array_equal(dictionary.W_dec, expected.W_dec)
    assert dictionary.meta["config"]["optim"]["b2"] is None
    assert dictionary.meta["config"]["data"]["cache"] == Path(old.data.cache).name
    assert label_runs([(old.run.out, run)])[0].label == label_runs([(old.run.out, known)])[0].label


def test_a_run_in_another_order_of_rows_is_not_resumed(old, capsys):
    assert read_run(Path(old.run.out)).row_order == VERSION
    change(old, lambda record: record.pop("row_order"))
    with pytest.raises(UserError, match="order of version 1"):
        train(old)
    assert open_trained(old.run.out).step == 4
    single = replace(old, data=replace(old.data, readers=1))  # where both orders are the same
    change(old, lambda record: record["config"]["data"].update(readers=1))
    train(single)
    assert "is complete: 4 steps" in capsys.readouterr().err
