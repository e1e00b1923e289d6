"""events.jsonl: what each start ran with and why it ended, kills included."""

import json
import os
import signal
from dataclasses import replace

import pytest
from cache_fixtures import make_cache
from test_train import Killed, config_for, train_until

from vasae_jax.cache import Cache
from vasae_jax.config.overrides import to_dict
from vasae_jax.distributed.mesh import make_mesh
from vasae_jax.training import events as events_file
from vasae_jax.training.events import NO_WORD, Events
from vasae_jax.training.loop import train
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import sha256_bytes
from vasae_jax.utils.signals import Stopped

pytestmark = pytest.mark.fault


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return make_cache(tmp_path_factory.mktemp("cache"), rows=600, d=16, vocab=40, layers=(1, 3)).url


def read(run):
    return [
        json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def test_a_run_says_what_it_ran_with_and_why_each_start_ended(cache, tmp_path):
    config, run = config_for(cache, tmp_path / "run"), tmp_path / "run"
    with pytest.raises(Killed):
        train_until(config, 9)
    again = replace(config, run=replace(config.run, log_every=1))
    train(again)
    train(again)
    start, first, killed, second, went_on, *rest = read(run)
    assert (first["event"], first["after"]) == ("train", 0)
    assert killed["reason"].startswith("Killed")
    assert went_on["event"] == "train" and 0 < went_on["after"] < config.run.steps
    assert [line["event"] for line in rest] == ["end", "start", "end"]
    assert {line["reason"] for line in rest if line["event"] == "end"} == {"complete"}
    ran, ran_again = (replace(c, sae=replace(c.sae, screen="off")) for c in (config, again))
    assert start["config"] == to_dict(ran) and second["config"] == to_dict(ran_again)
    stated = json.dumps(start["config"], sort_keys=True).encode()
    assert start["config_sha256"] == sha256_bytes(stated) != second["config_sha256"]
    assert start["cache_digest"] == Cache.open(cache).digest
    assert start["hosts"] == [os.uname().nodename] and start["process"] == os.getpid()
    assert start["devices"]["platform"] == "cpu" and start["devices"]["count"] == 1
    assert {"jax", "orbax-checkpoint", "python", "vasae_jax"} <= set(start["versions"])


@pytest.fixture
def opened(cache, tmp_path):
    config = config_for(cache, tmp_path / "run")
    return lambda: Events(config, Cache.open(cache), make_mesh(config.mesh))


def test_a_start_that_left_no_word_is_ended_by_the_next(opened, tmp_path):
    opened().__enter__()  # and no more: as a kill does
    with open(tmp_path / "run" / "events.jsonl", "a", encoding="utf-8") as file:
        file.write('{"event": "e')  # nor is half a line a word
    with opened():
        pass
    lines = read(tmp_path / "run")
    assert [line["event"] for line in lines] == ["start", "end", "start", "end"]
    assert [line.get("reason") for line in lines] == [None, NO_WORD, None, "complete"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Stopped(signal.SIGTERM, "stopped by SIGTERM"), "stopped by SIGTERM"),
        (UserError("the disk is full"), "the disk is full"),
        (KeyboardInterrupt(), "KeyboardInterrupt: "),
    ],
)
def test_reasons(opened, tmp_path, error, reason):
    with pytest.raises(type(error)), opened():
        raise error
    assert read(tmp_path / "run")[-1]["reason"] == reason


def test_an_end_that_cannot_be_written_hides_no_error(opened, monkeypatch):
    def full(*_):
        raise UserError("cannot write events.jsonl: no space")

    with pytest.raises(UserError, match="the loss is nan"), opened():
        monkeypatch.setattr(events_file, "write_bytes", full)
        raise UserError("the loss is nan")
    with pytest.raises(UserError, match="no space"):
        opened().__enter__()
