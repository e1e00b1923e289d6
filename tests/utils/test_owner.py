"""A folder has one owner at a time, which is named to others, and is not missed when it is gone."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from vasae_jax.utils import lock as owner_module
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.lock import OWNER, Owner

pytestmark = pytest.mark.fault

HOLD = "import sys, time; from vasae_jax.utils.lock import Owner; owner = Owner(sys.argv[1]);"


@pytest.fixture
def holder(tmp_path):
    """Another process that owns ``tmp_path``/run."""
    code = HOLD + "print(flush=True); time.sleep(60)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield process
        process.kill()


def test_the_second_is_told_of_the_first_until_that_is_killed(holder, tmp_path):
    said = rf"owner\.json is held by process {holder.pid} on {socket.gethostname()} since 20.*; "
    for _ in range(2):
        with pytest.raises(UserError, match=said + "expected one writer at a time"):
            Owner(tmp_path / "run")
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / OWNER).exists()
    with Owner(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / OWNER).read_text())["process"] == os.getpid()


def test_what_was_made_is_removed_unless_it_is_used(tmp_path):
    with Owner(tmp_path / "unused"):
        pass
    with Owner(tmp_path / "used") as owner:
        (tmp_path / "used" / "file").write_text("kept")
        owner.release()
    assert [path.name for path in tmp_path.rglob("*")] == ["used", "file"]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The file of an owner on another host, whose lock does not reach this one."""
    monkeypatch.setattr(owner_module, "SILENCE", 0.5)
    file = tmp_path / OWNER
    file.write_text(json.dumps({"host": "elsewhere", "process": 7, "since": "yesterday"}))
    return file


def test_an_owner_on_another_host_is_heard(elsewhere, monkeypatch):
    """It beats as an Owner does, which holds no lock that this host could see."""
    handle, over = os.open(elsewhere, os.O_RDWR), threading.Event()

    def beat():
        while not over.wait(0.02):
            os.utime(handle)

    heart = threading.Thread(target=beat)
    heart.start()
    try:
        with pytest.raises(UserError, match=r"held by process 7 on elsewhere since yesterday"):
            Owner(elsewhere.parent)
    finally:
        over.set()
        heart.join()
        os.close(handle)
    assert "elsewhere" in elsewhere.read_text()


def test_a_silent_owner_on_another_host_is_gone(elsewhere, capsys):
    with Owner(elsewhere.parent):
        assert json.loads(elsewhere.read_text())["process"] == os.getpid()
    assert "was left by process 7 on elsewhere" in capsys.readouterr().err


def test_an_owner_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(owner_module, "BEAT", 0.01)
    with Owner(tmp_path):
        first = (tmp_path / OWNER).stat().st_mtime_ns
        for _ in range(200):
            if (tmp_path / OWNER).stat().st_mtime_ns != first:
                return
            threading.Event().wait(0.01)
    raise AssertionError("the file was not touched")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_garbled_file_of_no_owner_is_no_hindrance(tmp_path, text, monkeypatch):
    monkeypatch.setattr(owner_module, "SILENCE", 0.1)
    (tmp_path / OWNER).write_text(text)
    with Owner(tmp_path):
        assert json.loads((tmp_path / OWNER).read_text())["process"] == os.getpid()


def test_many_at_once_leave_one(tmp_path):
    inside, most, won = [0], [0], [0]

    def compete():
        for _ in range(30):
            try:
                with Owner(tmp_path):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    won[0] += 1
                    inside[0] -= 1
            except UserError:
                continue

    threads = [threading.Thread(target=compete) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1 and won[0] > 0 and inside[0] == 0
    assert not list(tmp_path.iterdir())
