"""Weights & Biases in its offline mode: settings, curves, and a resumed run in the same run."""

import json
import signal
import struct
import sys

import pytest
from cache_fixtures import make_cache

from vasae_jax.cli.main import main
from vasae_jax.config import Config, DataConfig, MeshConfig, RunConfig, SAEConfig
from vasae_jax.distributed.hosts import StopOnAll
from vasae_jax.training.boards import config_hash, run_id
from vasae_jax.training.loop import train
from vasae_jax.training.run_dir import RunDir, read_run
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.signals import Stopped


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return make_cache(tmp_path_factory.mktemp("cache"), rows=600, layers=(1,)).url


def config_for(cache, out, steps, **run):
    return Config(
        data=DataConfig(cache=cache, layer=1, batch=32, readers=4, shuffle_chunks=2, seed=3),
        sae=SAEConfig(d_sae=32, k=3, decoder_init="random"),
        mesh=MeshConfig(data=1),
        run=RunConfig(out=str(out), steps=steps, log_every=2, checkpoint_every=2, **run),
    )


def records(file):
    """The records of a ``.wandb`` file: a LevelDB log after seven bytes of its own."""
    data, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:  # the rest of a block that no header fits into
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def offline_records(folder):
    """What the offline files of a run hold: its id, its settings, its history."""
    from wandb.proto import wandb_internal_pb2

    found = {"id": set(), "config": {}, "history": []}
    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        for data in records(file):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                found["id"].add(record.run.run_id)
                for item in record.run.config.update:
                    found["config"][item.key] = json.loads(item.value_json)
            elif kind == "history":
                items = record.history.item
                keys = ("/".join(item.nested_key) or item.key for item in items)
                values = (json.loads(item.value_json) for item in items)
                found["history"].append(dict(zip(keys, values, strict=True)))
    return found


def test_offline_run_and_its_resumption(cache, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    out = tmp_path / "run"
    config = config_for(cache, out, steps=6, wandb="tiny")
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(StopOnAll, "after", lambda self, step: signal.SIGTERM if step == 3 else None)
        train(config)
    train(config)
    found = offline_records(out)
    assert found["id"] == {run_id(RunDir(out))}
    assert found["config"]["sae"]["k"] == 3
    assert str(tmp_path) not in json.dumps(found["config"]) and cache not in str(found["config"])
    assert found["config"]["config_hash"] == config_hash(read_run(out).config)  # as it was settled
    steps = [line["step"] for line in found["history"]]
    assert set(steps) == {2, 4, 6}
    metrics = [
        json.loads(line)
        for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    last = {}
    for line in found["history"]:
        last.setdefault(line["step"], {}).update(line)
    for line in metrics:
        if "fvu" in line:
            assert last[line["step"]]["fvu"] == pytest.approx(line["fvu"])
            shown = last[line["step"]]
            assert 0 < sum(shown["alignment/values"]) <= 32  # of features that have fired
            assert len(shown["alignment/bins"]) == 81


def test_what_is_measured_is_shown_in_the_same_run(cache, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    out = tmp_path / "run"
    train(config_for(cache, out, steps=4, wandb="tiny"))
    assert main(["eval", str(out)]) == 0
    found, measured = (
        offline_records(out),
        json.loads((out / "eval-heldout.json").read_text(encoding="utf-8")),
    )
    assert found["id"] == {run_id(RunDir(out))}
    shown = {name: value for line in found["history"] for name, value in line.items()}
    assert {line["step"] for line in found["history"] if "mismatch" in line} == {4}
    explained = measured["unmasked"]["variance_explained"]
    assert shown["heldout/unmasked.variance_explained"] == pytest.approx(explained)
    everyone = measured["names"]["layer"][0]
    assert everyone["group"] == "all"
    for name in ("hold10", "holds", "shuffled10"):
        assert shown[f"heldout/names.layer.all.{name}"] == pytest.approx(everyone[name])
    for name in ("nearest_cosine", "hold"):
        assert shown[f"heldout/{name}/_type"] == "histogram"
        assert sum(shown[f"heldout/{name}/values"]) == everyone["features"]


def test_the_hash_is_of_the_settings_and_not_of_the_place(tmp_path):
    one, two = (config_for("c", tmp_path / name, 5) for name in "ab")
    assert config_hash(one) == config_hash(two)
    assert config_hash(one) != config_hash(config_for("c", tmp_path / "a", 6))


def test_a_missing_package_is_one_sentence(cache, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"--run\.wandb needs wandb, which is not installed"):
        train(config_for(cache, tmp_path / "run", steps=2, wandb="tiny"))
