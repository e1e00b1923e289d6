"""A folder is locked by one process at a time; the lock of a dead process does not count."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from vasae_jax.utils import lock as lock_module
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.lock import OWNER, FolderLock

pytestmark = pytest.mark.fault

HOLD = "import sys, time; from vasae_jax.utils import lock; held = lock.FolderLock(sys.argv[1]);"


@pytest.fixture
def holder(tmp_path):
    """Another process that has locked ``tmp_path``/run."""
    code = HOLD + "print(flush=True); time.sleep(60)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield process
        process.kill()


def test_a_second_process_is_refused_until_the_first_is_killed(holder, tmp_path):
    owner = rf"owner\.json.*{holder.pid}.*{socket.gethostname()}"
    for _ in range(2):
        with pytest.raises(UserError, match=owner):
            FolderLock(tmp_path / "run")
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / OWNER).exists()
    with FolderLock(tmp_path / "run"):
        assert (
            json.loads((tmp_path / "run" / OWNER).read_text(encoding="utf-8"))["process"]
            == os.getpid()
        )


def test_a_folder_that_was_created_is_removed_unless_it_has_files(tmp_path):
    with FolderLock(tmp_path / "unused"):
        pass
    with FolderLock(tmp_path / "used") as lock:
        (tmp_path / "used" / "file").write_text("kept", encoding="utf-8")
        lock.release()
    assert [path.name for path in tmp_path.rglob("*")] == ["used", "file"]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The lock file of a process on another host, whose flock is not seen here."""
    monkeypatch.setattr(lock_module, "TIMEOUT_SECONDS", 0.5)
    file = tmp_path / OWNER
    file.write_text(
        json.dumps({"host": "elsewhere", "process": 7, "since": "yesterday"}), encoding="utf-8"
    )
    return file


def test_an_owner_on_another_host_shows_that_it_lives(elsewhere, monkeypatch):
    """It touches the file as FolderLock does, without a flock that this host can see."""
    handle, over = os.open(elsewhere, os.O_RDWR), threading.Event()

    def beat():
        while not over.wait(0.02):
            os.utime(handle)

    heart = threading.Thread(target=beat)
    heart.start()
    try:
        with pytest.raises(UserError, match=r"7.*elsewhere"):
            FolderLock(elsewhere.parent)
    finally:
        over.set()
        heart.join()
        os.close(handle)
    assert "elsewhere" in elsewhere.read_text(encoding="utf-8")


def test_a_silent_owner_on_another_host_is_dead(elsewhere, capsys):
    with FolderLock(elsewhere.parent):
        assert json.loads(elsewhere.read_text(encoding="utf-8"))["process"] == os.getpid()
    assert "elsewhere" in capsys.readouterr().err


def test_the_owner_touches_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_module, "HEARTBEAT_SECONDS", 0.01)
    with FolderLock(tmp_path):
        first = (tmp_path / OWNER).stat().st_mtime_ns
        for _ in range(200):
            if (tmp_path / OWNER).stat().st_mtime_ns != first:
                return
            threading.Event().wait(0.01)
    raise AssertionError("the file was not touched")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_garbled_file_of_no_owner_is_ignored(tmp_path, text, monkeypatch):
    monkeypatch.setattr(lock_module, "TIMEOUT_SECONDS", 0.1)
    (tmp_path / OWNER).write_text(text, encoding="utf-8")
    with FolderLock(tmp_path):
        assert json.loads((tmp_path / OWNER).read_text(encoding="utf-8"))["process"] == os.getpid()


def test_of_many_threads_one_has_the_lock(tmp_path):
    inside, most, won = [0], [0], [0]

    def compete():
        for _ in range(30):
            try:
                with FolderLock(tmp_path):
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
