"""The training loop over a small real cache: resume, stops, logs and every refusal."""

import contextlib
import json
import os
import shutil
import signal
import threading
from dataclasses import replace

import jax
import numpy as np
import pytest
from cache_fixtures import make_cache

from vasae_jax.cache import Cache
from vasae_jax.cli.main import main
from vasae_jax.config import Config, DataConfig, MeshConfig, RunConfig, SAEConfig
from vasae_jax.config.presets import embedding
from vasae_jax.training.checkpoint import Checkpoints, load_params
from vasae_jax.training.digests import write_digests
from vasae_jax.training.loop import train
from vasae_jax.training.run import open_trained
from vasae_jax.training.run_dir import RunDir, claim_runs
from vasae_jax.utils.errors import UserError

STEPS = 24


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return make_cache(tmp_path_factory.mktemp("cache"), rows=600, d=16, vocab=40, layers=(1, 3)).url


def config_for(cache, out, **run):
    settings = {"steps": STEPS, "log_every": 5, "checkpoint_every": 7, **run}
    return Config(
        data=DataConfig(cache=cache, layer=1, batch=32, readers=4, shuffle_chunks=2),
        sae=SAEConfig(d_sae=32, k=3),
        anchor=replace(embedding().anchor, search_fraction=0.1),
        mesh=MeshConfig(data=1),
        run=RunConfig(out=str(out), **settings),
    )


def final(out):
    """Every array of a finished run's last checkpoint, by step and all."""
    step, params = load_params(out)
    with Checkpoints(out) as checkpoints:
        rest = checkpoints.raw(step)
    return step, {**params, **rest}


def assert_equal(one, other):
    (step, left), (other_step, right) = one, other
    assert step == other_step
    leaves, others = jax.tree.leaves(left), jax.tree.leaves(right)
    assert len(leaves) == len(others) > 10
    for a, b in zip(leaves, others, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.fixture(scope="module")
def whole(cache, tmp_path_factory):
    return train(config_for(cache, tmp_path_factory.mktemp("runs") / "whole"))


def test_metrics_have_one_line_for_each_due_step(whole):
    lines = [
        json.loads(line)
        for line in (whole / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [line["step"] for line in lines] == [5, 10, 15, 20, 24, 24]
    last = lines.pop()
    assert set(last) == {"step", "mismatch", "shortfall"} and 0 <= last["mismatch"] <= 1
    assert lines[-1]["fvu"] < lines[0]["fvu"]
    assert {"loss", "l0", "mean_cosine", "dead_fraction", "uncertified", "rows_per_s"} <= set(
        lines[0]
    )


# A kill between checkpoints, right after one, and before the first.
@pytest.mark.fault
@pytest.mark.parametrize("stop_at", [3, pytest.param(7, marks=pytest.mark.slow), 18])
def test_a_killed_run_resumes_bit_equal(cache, whole, tmp_path, stop_at):
    config = config_for(cache, tmp_path / "cut")
    with pytest.raises(Killed):
        train_until(config, stop_at)
    with open(tmp_path / "cut" / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 9')  # a half-written line, as a kill leaves it
    train(config)
    assert_equal(final(tmp_path / "cut"), final(whole))
    lines = (tmp_path / "cut" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == [5, 10, 15, 20, 24, 24]


class Killed(BaseException):
    """As abrupt as a signal that cannot be caught: nothing gets to save."""


def train_until(config, steps):
    """Train, but die after ``steps`` steps without saving."""
    from vasae_jax.training import loop

    class Dying(loop.PackStep):
        def __call__(self, number, *inputs):
            if number > steps:
                raise Killed
            return super().__call__(number, *inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "PackStep", Dying)
        train(config)


@pytest.mark.fault
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_keeps_the_progress(cache, tmp_path, capsys, number):
    out = tmp_path / "run"
    long = [
        "train", f"--data.cache={cache}", "--data.layer=1", "--data.batch=32", "--data.readers=4",
        "--data.shuffle_chunks=2", "--sae.d-sae=32", "--sae.k=3", "--anchor.search-fraction=0.1",
        "--mesh.data=1", f"--run.out={out}", "--run.log-every=1", "--run.steps=1000000",
    ]  # fmt: skip
    with signalled(number, out / "metrics.jsonl"):
        assert main(long) == 128 + number
    assert "run the same command to continue" in capsys.readouterr().err
    with Checkpoints(out) as checkpoints:
        assert checkpoints.latest() >= 1


@contextlib.contextmanager
def signalled(number, file):
    """Send this process a signal once ``file`` is there, unless the block has ended before."""
    ended = threading.Event()

    def wait():
        while not ended.wait(0.02):
            if file.exists():
                return os.kill(os.getpid(), number)

    watcher = threading.Thread(target=wait)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def test_a_finished_run_is_left_alone(cache, whole, capsys):
    before = final(whole)
    train(config_for(cache, whole))
    assert "is complete" in capsys.readouterr().err
    assert_equal(final(whole), before)


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize("meshes", [[(1, 1), (2, 4)], [(2, 4), (2, 2), (1, 1)]])
def test_other_meshes_may_resume_a_run(cache, whole, tmp_path, meshes):
    config = config_for(cache, tmp_path / "moved")
    *before, last = [replace(config, mesh=MeshConfig(data=d, model=m)) for d, m in meshes]
    for moved in before:
        with pytest.raises(Killed):
            train_until(moved, 9)  # some steps after a checkpoint
    train(last)
    _, mine = load_params(tmp_path / "moved")
    _, theirs = load_params(whole)
    for name in mine:
        np.testing.assert_allclose(mine[name], theirs[name], atol=1e-4, err_msg=name)


def test_reading_a_run_leaves_a_save_under_way_alone(cache, tmp_path):
    out = train(config_for(cache, tmp_path / "run", steps=2))
    saving = out / "checkpoints" / "3.orbax-checkpoint-tmp"
    (saving / "params").mkdir(parents=True)
    step, _ = load_params(out)
    assert step == 2
    assert (saving / "params").is_dir()


def test_tensorboard_files_are_written(cache, tmp_path):
    train(config_for(cache, tmp_path / "run", steps=2, tensorboard=True))
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


def changed(config, section, **fields):
    return replace(config, **{section: replace(getattr(config, section), **fields)})


@pytest.mark.fault
@pytest.mark.parametrize(
    ("section", "fields", "sentence"),
    [
        ("data", {"cache": ""}, "data.cache is empty"),
        ("data", {"layer": 2}, r"layers\.2\.resid_post is not in cache .*layers\.1\.resid_post, l"),
        ("data", {"batch": 30}, "data.batch is 30; expected a multiple of --data.readers"),
        ("sae", {"k": 64}, r"sae.k is 64; expected at most the number of features \(32\)"),
        ("sae", {"k": 0}, "sae.k is 0; expected at least 1"),
        ("sae", {"method": "tied"}, r"sae.method=tied has --sae.d-sae=32; expected 0 or .*40"),
        ("mesh", {"data": 3}, r"data.batch is 32; expected a multiple of .* \(3\)"),
        ("mesh", {"model": 5}, r"32 features cannot be split .* \(5\); .*--sae.d-sae=35"),
        ("mesh", {"model": 16}, r"found 8 device\(s\)"),
        ("optim", {"lr": 0.0}, "optim.lr is 0.0; expected more than 0"),
        ("optim", {"warmup": 1.5}, "optim.warmup is 1.5; expected a share"),
        ("anchor", {"search_fraction": 0.0}, "anchor.search-fraction is 0.0"),
        ("anchor", {"target_cosine": 1.5}, "anchor.target-cosine is 1.5"),
        ("run", {"out": ""}, "run.out is empty"),
        ("run", {"steps": 0}, "run.steps is 0; expected at least 1"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(
    cache, tmp_path, section, fields, sentence
):
    config = changed(config_for(cache, tmp_path / "run"), section, **fields)
    with pytest.raises(UserError, match=sentence):
        train(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.fault
def test_another_run_in_the_directory_is_refused_and_overwritten_when_asked(cache, tmp_path):
    config = config_for(cache, tmp_path / "run", steps=2)
    train(config)
    other = changed(config, "sae", k=2)
    with pytest.raises(UserError, match=r"holds another run: sae.k was 3 and is now 2"):
        train(other)
    train(changed(other, "run", overwrite=True))
    assert (
        json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))["config"]["sae"][
            "k"
        ]
        == 2
    )


def test_overwrite_deletes_nothing_but_a_run(cache, tmp_path):
    precious = tmp_path / "precious.txt"
    precious.write_text("keep me", encoding="utf-8")
    with pytest.raises(UserError, match="holds no run"):
        train(config_for(cache, tmp_path, overwrite=True))
    with pytest.raises(UserError, match="holds no run; expected a new or empty directory"):
        train(config_for(cache, tmp_path))
    assert precious.read_text(encoding="utf-8") == "keep me"


@pytest.mark.fault
@pytest.mark.parametrize(
    "record", ['{"model_type": "gpt2"}', "[]", "{", '{"created_by": "vasae_jax 0.1.0"}']
)
def test_a_config_json_of_something_else_is_no_run(cache, tmp_path, record):
    (tmp_path / "config.json").write_text(record, encoding="utf-8")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "model.safetensors").write_text("keep me", encoding="utf-8")
    with pytest.raises(UserError, match="holds no run"):
        train(config_for(cache, tmp_path, overwrite=True))
    assert (tmp_path / "checkpoints" / "model.safetensors").read_text(encoding="utf-8") == "keep me"
    assert (tmp_path / "config.json").read_text(encoding="utf-8") == record


@pytest.mark.fault
def test_overwrite_deletes_of_a_run_only_what_was_written(whole, cache, tmp_path, monkeypatch):
    run = shutil.copytree(whole, tmp_path / "run")
    inside = shutil.copytree(cache, run / "cache")
    (run / "notes.md").write_text("keep me", encoding="utf-8")
    (run / "eval-heldout.json").write_text("{}", encoding="utf-8")
    again = config_for(str(inside), run, overwrite=True)
    monkeypatch.chdir(run)
    with pytest.raises(UserError, match="working directory"):
        train(changed(again, "run", out="."))
    monkeypatch.chdir(tmp_path)
    (run / "checkpoints").rename(tmp_path / "elsewhere")
    (run / "checkpoints").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="link"):
        train(again)
    (run / "checkpoints").unlink()
    (tmp_path / "elsewhere").rename(run / "checkpoints")
    before = (run / "metrics.jsonl").read_text(encoding="utf-8")
    with contextlib.ExitStack() as held:
        claim_runs([again], Cache.open(str(inside)), held)
        assert sorted(set(os.listdir(run)) - {"owner.json"}) == ["cache", "config.json", "notes.md"]
    assert before and Cache.open(str(inside)).digest == Cache.open(cache).digest


@pytest.mark.fault
def test_a_diverging_run_stops_with_a_sentence(cache, tmp_path):
    config = changed(config_for(cache, tmp_path / "run"), "optim", lr=1e30, warmup=0.0)
    with pytest.raises(UserError, match=r"the loss is (nan|inf) at step \d+"):
        train(changed(config, "sae", normalize_decoder=False))


@pytest.fixture
def copied(whole, tmp_path):
    """A finished run that a test may damage."""
    return shutil.copytree(whole, tmp_path / "copied")


@pytest.mark.fault
def test_a_run_opens_with_its_own_cache_or_one_like_it(copied, tmp_path):
    assert open_trained(str(copied)).step == STEPS
    other = make_cache(tmp_path, rows=600, d=16, vocab=40, layers=(1, 3), name="other").url
    assert open_trained(str(copied), other).cache.url == other
    wide = make_cache(tmp_path, rows=40, d=24, vocab=40, layers=(1, 3), name="wide").url
    with pytest.raises(UserError, match="has rows of 24 numbers; expected 16 as run"):
        open_trained(str(copied), wide)


@pytest.mark.fault
def test_another_cache_in_the_place_of_a_run_s_own_is_refused(cache, tmp_path):
    url = shutil.copytree(cache, tmp_path / "cache")
    config = config_for(str(url), tmp_path / "run", steps=1)
    train(config)
    shutil.rmtree(url)
    make_cache(tmp_path, rows=620, d=16, vocab=40, layers=(1, 3))
    with pytest.raises(UserError, match=r"has changed since run .* was trained on it"):
        open_trained(str(tmp_path / "run"))
    with pytest.raises(UserError, match=r"holds another run: the cache .* has changed"):
        train(config)


@pytest.mark.fault
def test_a_run_finds_its_cache_from_every_working_directory(cache, tmp_path, monkeypatch):
    shutil.copytree(cache, tmp_path / "rows")
    monkeypatch.chdir(tmp_path)
    train(config_for("rows", "run", steps=1))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert open_trained("../run").cache.url == str(tmp_path / "rows")
    (start, *_) = (tmp_path / "run" / "events.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(start)["config"]["data"]["cache"] == str(tmp_path / "rows")


@pytest.mark.fault
@pytest.mark.parametrize("stored", ["rows", "{here}/rows"])
def test_a_cache_that_is_not_where_a_run_says_is_named_in_full(
    copied, tmp_path, monkeypatch, stored
):
    monkeypatch.chdir(tmp_path)
    record = json.loads((copied / "config.json").read_text(encoding="utf-8"))
    record["config"]["data"]["cache"] = stored.format(here=tmp_path)
    (copied / "config.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(UserError, match=rf"run {copied} .*{tmp_path}/rows.*--cache"):
        open_trained(str(copied))


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_damaged_config_is_named(copied, text):
    (copied / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"config\.json .*expected"):
        open_trained(str(copied))


def test_a_run_without_a_whole_checkpoint_is_refused(copied):
    checkpoints = copied / "checkpoints"
    shutil.rmtree(checkpoints)
    with pytest.raises(UserError, match="has no checkpoints; expected the directory of a run"):
        load_params(copied)
    checkpoints.mkdir()
    with pytest.raises(UserError, match="has no finished checkpoint yet"):
        load_params(copied)


@pytest.mark.parametrize("emptied", ["_METADATA", "manifest.ocdbt", "process_0", "d/*", "*"])
def test_a_checkpoint_of_emptied_files_is_one_sentence(copied, emptied):
    item = copied / "checkpoints" / str(STEPS) / "params"
    files = [path for path in item.rglob(emptied) if path.is_file()]
    assert files
    for path in files:
        path.write_bytes(b"")
    write_digests(item)  # emptied before they were digested
    with pytest.raises(UserError) as refused:
        load_params(copied)
    sentence = str(refused.value)
    assert sentence.startswith(f"{item} holds no checkpoint that can be read (")
    assert "; expected the files" in sentence
    assert "\n" not in sentence and "tensorstore_spec" not in sentence


def test_metrics_that_cannot_be_written_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        RunDir(tmp_path / "gone").log({"step": 1})
