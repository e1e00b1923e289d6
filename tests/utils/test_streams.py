"""Standard streams that are lost, and errors that nobody foresaw."""

import ast
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vasae_jax
from vasae_jax.utils.ending import exit_code
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.progress import Progress
from vasae_jax.utils.streams import note

pytestmark = [pytest.mark.fault, pytest.mark.hostile]

PROGRAM = """
import sys
from vasae_jax.utils.ending import exit_code
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.streams import protect_streams

def work():
    for number in range(9):
        print("a line of output")
        print("a line of the log", file=sys.stderr)
    open("done", "w").close()
    if "refuse" in sys.argv:
        raise UserError("it is damaged; expected it whole")

protect_streams()
sys.exit(exit_code(work))
"""


def ended(folder, *words, unbuffered="", **streams):
    """The exit code of a command, and whether it came to the end of its work."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PROGRAM, *words]
    environment["PYTHONUNBUFFERED"] = unbuffered
    done = subprocess.run(command, cwd=folder, env=environment, check=False, **streams)
    return done.returncode, (folder / "done").exists()


@pytest.fixture
def no_reader():
    """The end of a pipe whose other end is closed."""
    ours, theirs = os.pipe()
    os.close(ours)
    yield theirs
    os.close(theirs)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(("words", "code"), [((), 0), (("refuse",), 2)])
def test_a_pipe_without_a_reader_changes_neither_work_nor_code(
    tmp_path, no_reader, unbuffered, words, code
):
    streams = {"stdout": no_reader, "stderr": no_reader}
    assert ended(tmp_path, *words, unbuffered=unbuffered, **streams) == (code, True)


@pytest.mark.parametrize(("words", "code"), [((), 0), (("refuse",), 2)])
def test_closed_streams_change_neither_work_nor_code(tmp_path, words, code):
    close = "import os; [os.close(n) for n in (0, 1, 2)]; os.execv({0!r}, [{0!r}, *{1!r}])"
    inner = ["-c", PROGRAM, *words]
    program = [sys.executable, "-c", close.format(sys.executable, inner)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run(program, cwd=tmp_path, env=environment).returncode == code
    assert (tmp_path / "done").read_bytes() == b""  # no line of a log went into a file


def test_a_log_on_a_full_disk_is_lost_and_output_there_is_an_error(tmp_path):
    with open("/dev/full", "wb") as full:
        assert ended(tmp_path, stderr=full, stdout=subprocess.DEVNULL) == (0, True)
        assert ended(tmp_path, stdout=full, stderr=subprocess.DEVNULL) == (2, True)


def test_a_pipe_that_does_not_block_gets_all(tmp_path):
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    command = [sys.executable, "-c", PROGRAM.replace("range(9)", "range(20_000)")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    streams = {"stdout": theirs, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, **streams)
    os.close(theirs)
    with open(ours, "rb") as pipe:
        assert pipe.read().count(b"\n") == 20_000
    assert process.wait() == 0


class Lost(io.StringIO):
    """A stream whose reader is gone."""

    def write(self, text):
        raise BrokenPipeError


@pytest.mark.parametrize("stream", [Lost(), None])
def test_a_library_loses_its_lines_and_goes_on(monkeypatch, capsys, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    note("a line")
    with Progress(10) as progress:
        progress.update(5)
        progress.finish(10)
    assert capsys.readouterr().out == ""


def test_nothing_is_printed_on_stderr_that_could_stop_a_run():
    """``print(..., file=sys.stderr)`` raises where the reader has gone: ``note`` does not."""
    package = Path(vasae_jax.__file__).parent
    for file in package.rglob("*.py"):
        if file.relative_to(package).as_posix() == "utils/streams.py":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
                assert "sys.stderr" not in ast.unparse(node), f"{file}:{node.lineno}"


def fail(error):
    def run():
        raise error

    return run


class Panic(BaseException):
    """As that of PyO3: no Exception."""


@pytest.mark.parametrize("error", [KeyError("k"), RuntimeError("one\ntwo"), Panic("in Rust")])
def test_what_nobody_foresaw_is_one_sentence_and_a_log_file(tmp_path, monkeypatch, capsys, error):
    monkeypatch.setenv("VASAE_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["/some/where/vasae", "name", "my run"])
    assert exit_code(fail(error)) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"vasae: {type(error).__name__}") and said.count("\n") == 1
    (log,) = (tmp_path / "logs").iterdir()
    assert str(log) in said and log.stat().st_mode & 0o077 == 0
    text = log.read_text(encoding="utf-8")
    for fact in ("Traceback", "vasae name 'my run'", f"vasae_jax {vasae_jax.__version__}", "jax "):
        assert fact in text
    assert "/some/where" not in text


def test_a_log_file_that_cannot_be_written_does_not_hide_the_error(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("VASAE_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    assert exit_code(fail(KeyError("k"))) == 1
    assert capsys.readouterr().err.startswith("vasae: KeyError")


@pytest.mark.parametrize(
    ("error", "code"), [(UserError("one sentence"), 2), (ZeroDivisionError("by 0"), 1)]
)
def test_the_traceback_is_shown_when_asked(tmp_path, monkeypatch, capsys, error, code):
    monkeypatch.setenv("VASAE_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["vasae", "name", "--traceback"])
    assert exit_code(fail(error)) == code
    *trace, sentence = capsys.readouterr().err.rstrip().split("\n")
    assert trace[0].startswith("Traceback") and re.match("vasae: .", sentence)
