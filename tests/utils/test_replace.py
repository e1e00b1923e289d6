"""What overwriting removes of a folder: names that we write, nothing where that could be more."""

import os

import pytest

from vasae_jax.utils.errors import UserError
from vasae_jax.utils.replace import check_replaceable, remove_entries, replace_entries

pytestmark = pytest.mark.fault
NAMES = ("record.json", "data", "eval-*.json")


@pytest.fixture
def ours(tmp_path):
    """A folder of ours, with a note and a folder of someone else's."""
    folder = tmp_path / "home" / "work" / "ours"
    for name in ("data/deep/one.bin", "data/two.bin", "record.json", "eval-a.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("old", encoding="utf-8")
    (folder / "cache").mkdir()
    (folder / "cache" / "rows").write_text("precious", encoding="utf-8")
    (folder / "notes.md").write_text("precious", encoding="utf-8")
    return folder


def content(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in files}


THEIRS = {"cache/rows": "precious", "notes.md": "precious"}


def test_only_our_names_are_removed(ours):
    check_replaceable(ours, NAMES)
    remove_entries(ours, NAMES)
    assert content(ours) == THEIRS
    remove_entries(ours / "missing", NAMES)


@pytest.mark.parametrize("inside", [".", "data/deep", "cache"])
def test_the_working_directory_and_what_holds_it_are_refused(ours, monkeypatch, inside):
    monkeypatch.chdir(ours / inside)
    with pytest.raises(UserError, match="working directory"):
        check_replaceable(ours, NAMES)
    with pytest.raises(UserError, match="working directory"):
        check_replaceable(type(ours)(os.path.relpath(ours)), NAMES)


def test_the_home_directory_and_what_holds_it_are_refused(ours, monkeypatch):
    monkeypatch.setenv("HOME", str(ours))
    for folder in (ours, ours.parent):
        with pytest.raises(UserError, match="home directory"):
            check_replaceable(folder, NAMES)
    monkeypatch.setenv("HOME", str(ours.parent))
    check_replaceable(ours, NAMES)


@pytest.mark.parametrize("place", [".git", "data/deep/.git"])
def test_a_git_repository_is_refused(ours, place):
    (ours / place).mkdir()
    with pytest.raises(UserError, match="git repository"):
        check_replaceable(ours, NAMES)


def test_a_file_of_a_worktree_counts_as_well(ours):
    (ours / ".git").write_text("gitdir: elsewhere", encoding="utf-8")
    with pytest.raises(UserError, match="git repository"):
        check_replaceable(ours, NAMES)


def test_inputs_are_refused_where_they_would_go(ours):
    check_replaceable(ours, NAMES, [ours / "cache", "gs://bucket/data", ours.parent])
    for given in (ours, ours / "data", ours / "data" / "deep"):
        with pytest.raises(UserError):
            check_replaceable(ours, NAMES, [given])


def test_links_are_not_followed(ours, tmp_path):
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "file").write_text("precious", encoding="utf-8")
    (ours / "eval-b.json").symlink_to(tmp_path / "else")
    with pytest.raises(UserError, match="link"):
        check_replaceable(ours, NAMES)
    (ours / "eval-b.json").unlink()
    (ours / "data" / "link").symlink_to(tmp_path / "else")
    check_replaceable(ours, NAMES)
    remove_entries(ours, NAMES)
    assert (tmp_path / "else" / "file").read_text(encoding="utf-8") == "precious"


def test_the_new_takes_the_place_of_the_old_and_the_rest_stays(ours, tmp_path):
    new = tmp_path / "new"
    (new / "data").mkdir(parents=True)
    for name in ("data/three.bin", "record.json"):
        (new / name).write_text("new", encoding="utf-8")
    replace_entries(new, ours, NAMES)
    assert content(ours) == THEIRS | {"data/three.bin": "new", "record.json": "new"}
    assert sorted(os.listdir(tmp_path)) == ["home", "new"] and not list(new.iterdir())


def test_what_cannot_be_moved_leaves_the_old(ours, tmp_path):
    new, before = tmp_path / "new", content(ours)
    (new / "notes.md").mkdir(parents=True)  # a name that is theirs
    (new / "data").mkdir()
    with pytest.raises(OSError):
        replace_entries(new, ours, NAMES)
    assert content(ours) == before
    assert sorted(os.listdir(new)) == ["data", "notes.md"]
    assert sorted(os.listdir(tmp_path)) == ["home", "new"]
