"""Commands in odd environments: without a home or a name for the user, and in other locales."""

import os
import shutil
import subprocess
import sys

import pytest
from hostile_commands import SETTINGS, vasae

from vasae_jax.distributed.autotune import fastest
from vasae_jax.distributed.environment import CACHE_DIR, cache_compiled_programs
from vasae_jax.training.digests import kept_steps
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import expand_user, json_text, require_utf8, user_cache
from vasae_jax.utils.hub import find_model

pytestmark = [pytest.mark.fault, pytest.mark.hostile]

KNOWN = ("HOME", "XDG_CACHE_HOME", "VASAE_CACHE", CACHE_DIR)
NOT_UTF8 = os.fsdecode(b"caf\xe9")
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


@pytest.fixture
def nobody(monkeypatch):
    """No variable names a home, and the system does not know the user."""

    def unknown(*_):
        raise KeyError("uid not found")

    for name in KNOWN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("pwd.getpwnam", unknown)


def test_without_a_home_there_is_no_cache_and_that_is_said(nobody):
    with pytest.raises(UserError, match="no home directory"):
        user_cache()
    assert os.fspath(expand_user("~/model")) == "~/model"
    with pytest.raises(UserError, match="~/model"):
        find_model("~/model", [])


def test_without_a_home_nothing_is_kept_and_all_goes_on(nobody, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "jax")
    cache_compiled_programs()
    assert CACHE_DIR not in os.environ
    assert fastest("task", lambda: {"only": lambda: 1}).name == "only"
    assert list(tmp_path.iterdir()) == []  # no folder with the name ~


@pytest.mark.slow
def test_a_home_that_cannot_be_written_is_done_without(cache, tmp_path):
    words = ["train", f"--data.cache={cache}", f"--run.out={tmp_path / 'run'}", *SETTINGS]
    assert vasae(*words, environment={"HOME": "/dev/null"}, without=KNOWN).code == 0
    assert kept_steps(tmp_path / "run") == [4]


@pytest.mark.slow
def test_a_user_without_home_or_name_trains(cache, tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    unknown = "import pwd\ndef f(*_): raise KeyError('uid')\npwd.getpwuid = pwd.getpwnam = f\n"
    (site / "sitecustomize.py").write_text(unknown, encoding="utf-8")
    path = os.pathsep.join([str(site), *sys.path])
    words = ["train", f"--data.cache={cache}", f"--run.out={tmp_path / 'run'}", *SETTINGS]
    ended = vasae(*words, environment={"PYTHONPATH": path}, without=KNOWN, cwd=tmp_path)
    assert ended.code == 0 and kept_steps(tmp_path / "run") == [4]
    assert sorted(os.listdir(tmp_path)) == ["run", "site"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["r\u00e9sum\u00e9".encode(), b"caf\xe9"])
def test_in_an_ascii_locale_a_run_is_where_its_path_says_or_refused(cache, tmp_path, name):
    out = tmp_path / os.fsdecode(name)
    words = ["train", f"--data.cache={cache}", f"--run.out={out}", *SETTINGS]
    ended = vasae(*words, environment=ASCII)
    assert ended.code == 2 and "UTF-8" in ended.said
    assert list(tmp_path.iterdir()) == []
    assert vasae("cache", "export", cache, f"--out={out}", environment=ASCII).code == 0
    assert out.exists()


@pytest.mark.slow
def test_in_a_latin_1_locale_no_second_folder_appears(cache, tmp_path):
    locales = tmp_path / "locales"
    locales.mkdir()
    made = shutil.which("localedef") and subprocess.run(
        ["localedef", "-i", "en_US", "-f", "ISO-8859-1", locales / "en_US.ISO-8859-1"],
        capture_output=True,
    )
    if not (locales / "en_US.ISO-8859-1").exists():
        pytest.skip(f"this system makes no Latin-1 locale: {made}")
    latin = {"LOCPATH": str(locales), "LC_ALL": "en_US.ISO-8859-1"} | {"PYTHONUTF8": "0"}
    out = tmp_path / "caf\u00e9"
    words = ["train", f"--data.cache={cache}", f"--run.out={out}", *SETTINGS]
    ended = vasae(*words, environment=latin)
    assert ended.code == 2 and "UTF-8" in ended.said
    assert [path.name for path in tmp_path.iterdir()] == ["locales"]


def test_a_path_that_is_not_utf8_is_refused_and_recorded_as_it_is(tmp_path):
    with pytest.raises(UserError, match=r"caf\\udce9"):
        require_utf8(tmp_path / NOT_UTF8)
    require_utf8(tmp_path / "caf\u00e9 #%/\u65e5")
    text = json_text({"path": NOT_UTF8}, "file", ensure_ascii=False)
    assert text.encode() == b'{"path": "caf\\udce9"}'
    assert json_text({"path": "\u00e9"}, "file", ensure_ascii=False) == '{"path": "\u00e9"}'
