"""Every verb, given what is none of its folders and files: one sentence, and nothing written."""

import json
import os
import signal
import socket

import pytest
from hostile_commands import SETTINGS

from vasae_jax.cli.main import main

pytestmark = [pytest.mark.fault, pytest.mark.hostile, pytest.mark.slow]

VERBS = {
    "train": ["train", "--data.cache={}", "--run.out=new", *SETTINGS],
    "train config": ["train", "{}"],
    "train out": ["train", "--data.cache={cache}", "--run.out={}", *SETTINGS],
    "train over": ["train", "--data.cache={cache}", "--run.out={}", "--run.overwrite", *SETTINGS],
    "sweep": ["sweep", "{}"],
    "sweep status": ["sweep", "status", "{}"],
    "sweep table": ["sweep", "table", "{}"],
    "eval": ["eval", "{}"],
    "eval cache": ["eval", "{run}", "--cache={}", "--out=new.json"],
    "eval lm": ["eval", "{run}", "--lm={}", "--out=new.json"],
    "name": ["name", "{}"],
    "report": ["report", "{}", "--out=new"],
    "heatmap": ["heatmap", "--runs", "{}", "--lm={}", "--text=a", "--out=new.png"],
    "export": ["export", "{}", "--out=new.npz"],
    "import": ["import", "{}", "--cache={cache}", "--out=new"],
    "cache info": ["cache", "info", "{}"],
    "cache verify": ["cache", "verify", "{}"],
    "cache finish": ["cache", "finish", "{}"],
    "cache import": ["cache", "import", "{}", "--model={}", "--out=new"],
    "anchors": ["anchors", "{}"],
    "quickstart model": ["quickstart", "--model={}", "--out=new"],
    "quickstart text": ["quickstart", "--text={}", "--out=new", "--model=nowhere.gguf"],
}
NAMES = ("config.json", "manifest.json", "sweep.json", "meta.json", "cfg.json", "model.gguf")


def make_folder(place, content):
    place.mkdir()
    for name in NAMES:
        (place / name).write_bytes(content)


def make_loop(place):
    place.symlink_to(place)


def make_socket(place):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place))


PLACES = {
    "nothing": lambda place: None,
    "an empty folder": lambda place: place.mkdir(),
    "an empty file": lambda place: place.touch(),
    "a file of bytes": lambda place: place.write_bytes(bytes(range(256)) * 9),
    "a link to itself": make_loop,
    "a pipe that nobody writes": os.mkfifo,
    "a socket": make_socket,
    "folder of lists": lambda place: make_folder(place, b"[]"),
    "folder of nothing": lambda place: make_folder(place, b""),
    "folder of Latin-1": lambda place: make_folder(place, b'{"a": "\xe9"}'),
    "folder of depth": lambda place: make_folder(place, b'{"config":' * 90_000),
    "folder of folders": lambda place: [(place / name).mkdir(parents=True) for name in NAMES],
    "folder of pipes": lambda place: (
        place.mkdir(),
        [os.mkfifo(place / name) for name in NAMES],
    ),
}
NEW = ("a name with a line", "a name like a setting", "another user's home")
NAMED = {
    "a name that is too long": "n" * 300,
    "a path that is too long": "n/" * 3000,
    "a name with a line": "a\nb",
    "a name like a setting": "--sae.k=3",
    "a device": "/dev/null",
    "a device without end": "/dev/zero",
    "no name": "",
    "another user's home": "~nobody-by-that-name/x",
    "an unknown scheme": "ftp://bucket/x",
    "a bucket without a name": "gs://",
}


@pytest.fixture
def patience(monkeypatch):
    """Ends a test that waits; nothing is looked for in the network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def late(*_):
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def ends_well(words, capsys):
    """Whether a command is refused in a sentence, or by argparse."""
    capsys.readouterr()
    try:
        code = main(words)
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr().err
    assert code == 2 and "not foreseen" not in said, said


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("verb", VERBS)
def test_what_is_none_of_ours_is_refused(
    verb, name, cache, run, tmp_path, monkeypatch, capsys, patience
):
    monkeypatch.chdir(tmp_path)
    PLACES[name](tmp_path / "it")
    if verb.startswith("train o") and name in ("nothing", "an empty folder"):
        return  # is a place for a run
    words = [word.format("it", cache=cache, run=run) for word in VERBS[verb]]
    ends_well(words, capsys)
    assert set(os.listdir(tmp_path)) <= {"it"}


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("verb", VERBS)
def test_names_that_can_be_none_are_refused(
    verb, name, cache, run, tmp_path, monkeypatch, capsys, patience
):
    monkeypatch.chdir(tmp_path)
    if verb.startswith("train o") and name in NEW:
        return  # may be a new run
    if verb in ("eval cache", "eval lm", "quickstart model") and name == "no name":
        return  # as if the option were not there
    words = [word.format(NAMED[name], cache=cache, run=run) for word in VERBS[verb]]
    ends_well(words, capsys)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", ["a\0b", "n" * 5000, "\ud800"])
def test_a_name_in_a_file_may_be_none(value, run, tmp_path, monkeypatch, capsys, patience):
    record = json.loads((run / "config.json").read_bytes())
    record["config"]["data"]["cache"] = value
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(record), encoding="utf-8")
    os.symlink(run / "checkpoints", tmp_path / "run" / "checkpoints")
    for verb in ("eval", "name", "report"):
        ends_well([word.format("run") for word in VERBS[verb]], capsys)
