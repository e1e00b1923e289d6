"""Storage that never answers: a named pipe that nobody writes to, in the place of a file."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from cache_fixtures import make_cache
from test_train import config_for

from vasae_jax.cache import Cache
from vasae_jax.cache import store as waiting
from vasae_jax.cli.main import exit_code
from vasae_jax.config import RunConfig
from vasae_jax.distributed.hosts import StopOnAll
from vasae_jax.training.checkpoint import Checkpoints
from vasae_jax.training.loop import take_steps, train
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.signals import Stopped

pytestmark = pytest.mark.fault
BOUND = 0.3  # seconds


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_cache(tmp_path_factory.mktemp("cache"), rows=600, d=16, vocab=40, layers=(1,)).url


@pytest.fixture
def cache(whole, tmp_path):
    """A cache of 10 shards that may be damaged."""
    return shutil.copytree(whole, tmp_path / "cache")


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(waiting, "PATIENCE", BOUND)


@pytest.fixture
def hang(monkeypatch):
    """A function from whose call on every open of a file waits until the test ends."""
    # A pipe stands for such a file.
    monkeypatch.setattr(Path, "is_file", lambda path: path.exists() and not path.is_dir())
    pipes = []

    def replace(file):
        file.unlink()
        os.mkfifo(file)
        pipes.append(file)

    yield replace
    for pipe in pipes:
        end = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)  # lets all who wait on
        os.unlink(pipe)  # and no one comes after them
        os.close(end)


@pytest.mark.parametrize("file", ["manifest.json", "train/tokens/zarr.json", "vocab/tokens.json"])
def test_a_read_of_any_file_ends_within_the_bound(cache, soon, hang, file):
    hang(cache / file)

    def read():
        opened = Cache.open(str(cache))
        opened.vocab()
        opened.column("tokens", "train")

    with pytest.raises(UserError, match=rf"{Path(file).parts[0]}.*: no answer for 0\.3 s; "):
        read()


def test_rows_that_never_come_are_named(cache, soon, hang):
    hang(cache / "train/acts/layers.1.resid_post/c/2/0")
    acts = Cache.open(str(cache)).acts(1, "train")
    assert len(acts.read(0, 64)) == 64
    with pytest.raises(
        UserError, match=r"cannot read rows 128 to 192 of .*layers.1.resid_post: no answer"
    ):
        acts.read(128, 192)


def test_a_run_ends_with_the_cause(cache, tmp_path, soon, hang):
    hang(cache / "train/docs/c/7")
    with pytest.raises(UserError, match=r"of .*train/docs: no answer for 0\.3 s"):
        train(config_for(str(cache), tmp_path / "run"))


def test_a_cache_that_vanishes_under_a_run_is_told_at_once(cache, tmp_path):
    out = tmp_path / "run"
    config = config_for(str(cache), out, log_every=1, steps=10**6)
    watcher = threading.Thread(target=lambda: (wait_until((out / "metrics.jsonl").exists), gone()))

    def gone():
        shutil.rmtree(cache)
        watcher.told = time.monotonic()

    watcher.start()
    with pytest.raises(UserError, match=rf"cannot read rows .* of {cache}/train/"):
        train(config)
    watcher.join()
    assert time.monotonic() - watcher.told < 10


def test_a_signal_is_honoured_while_a_batch_is_waited_for(cache, tmp_path, capsys, hang):
    out = tmp_path / "run"
    config = config_for(str(cache), out, log_every=1, steps=10**6)
    watcher = threading.Thread(target=hang_and_stop, args=(cache, out / "metrics.jsonl", hang))
    watcher.start()
    assert exit_code(lambda: train(config)) == 128 + signal.SIGTERM
    ended = time.monotonic()
    watcher.join()
    assert ended - watcher.told < 5
    with Checkpoints(out) as checkpoints:
        step = checkpoints.latest()
    assert f"stopped by SIGTERM after step {step}, kept in" in capsys.readouterr().err


def hang_and_stop(cache, metrics, hang):
    """Let the rows hang once the run has begun, and ask it to stop once it makes no step."""
    wait_until(metrics.exists)
    for file in (cache / "train/docs/c").iterdir():
        hang(file)
    sizes = [0, metrics.stat().st_size]
    while sizes[-1] != sizes[-2]:
        time.sleep(0.5)
        sizes.append(metrics.stat().st_size)
    threading.current_thread().told = time.monotonic()
    os.kill(os.getpid(), signal.SIGTERM)


def wait_until(holds):
    for _ in range(3000):
        if holds():
            return
        time.sleep(0.02)


def test_a_signal_before_the_first_batch_has_nothing_to_keep():
    with StopOnAll() as stop:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped, match="stopped by SIGTERM before a batch was read"):
            take_steps(RunConfig(steps=3), iter(()), None, (), {}, None, stop)
