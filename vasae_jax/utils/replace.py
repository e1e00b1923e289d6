"""Replacing what an earlier command wrote in a folder: only names that we write are removed.

Whether a folder is ours its record says, which each caller reads. What else lies there stays.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from vasae_jax.utils.errors import UserError

Names = Collection[str]
"""Patterns of the names that we write in a folder, such as ``eval-*.json``."""


def check_replaceable(
    folder: Path, names: Names, inputs: Iterable[str | os.PathLike[str]] = ()
) -> None:
    """Raise UserError where removing the entries ``names`` of ``folder`` could take other things.

    That is where the folder is or holds the working directory or the home directory, holds a git
    repository, is one of the ``inputs`` of the command or has one among these entries, or where
    one of these entries is a link.
    """
    place = folder.resolve()
    for what, other in _kept_places():
        if other.is_relative_to(place):
            raise UserError(f"{folder} is {what} or holds it; expected another folder to overwrite")
    refuse_links(folder, names)
    entries = entries_of(place, names)
    for holder in [place, *filter(Path.is_dir, entries)]:
        if (found := _git_in(holder, deep=holder != place)) is not None:
            raise UserError(f"{found} is a git repository; expected a folder without one")
    for one in inputs:
        given = os.fspath(one)
        source = Path(given).resolve()
        if "://" not in given and any(source.is_relative_to(entry) for entry in entries):
            raise UserError(f"{given} lies in what would be overwritten; expected another folder")
        if source == place:
            raise UserError(f"{folder} is read by this command; expected another to overwrite")


def refuse_links(folder: Path, names: Names, *, deep: bool = False) -> None:
    """Raise UserError if one of the entries ``names`` of ``folder`` is a link.

    With ``deep`` also if anything in these entries is one.
    """
    for entry in entries_of(folder, names):
        if entry.is_symlink():
            raise link_error(entry)
        for place, folders, files in os.walk(entry) if deep else ():
            for name in (*folders, *files):
                if os.path.islink(path := os.path.join(place, name)):
                    raise link_error(path)


def link_error(path: str | os.PathLike[str]) -> UserError:
    """The UserError for a link where something would be written or deleted."""
    return UserError(
        f"{os.fspath(path)} is a link, which is not followed to write, overwrite or delete "
        "anything; expected a file or folder, or nothing"
    )


def _kept_places() -> Iterator[tuple[str, Path]]:
    with contextlib.suppress(OSError):
        yield "the working directory", Path.cwd()
    with contextlib.suppress(OSError, RuntimeError):  # no home
        yield "the home directory", Path.home().resolve()


def _git_in(folder: Path, deep: bool) -> Path | None:
    """A git repository in ``folder``, or anywhere below it."""
    if not deep:
        return folder if (folder / ".git").exists() else None
    walk = os.walk(folder)
    return next((Path(where) for where, dirs, files in walk if ".git" in (*dirs, *files)), None)


def entries_of(folder: Path, names: Names) -> list[Path]:
    """The entries of ``folder`` whose names are among ``names``; none where it is not there."""
    if not folder.is_dir():
        return []
    here = sorted(folder.iterdir())
    return [entry for entry in here if any(fnmatchcase(entry.name, name) for name in names)]


def remove_entries(folder: Path, names: Names) -> None:
    """Remove the entries ``names`` of ``folder``; first ask :func:`check_replaceable`."""
    for entry in entries_of(folder, names):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def replace_entries(new: Path, folder: Path, names: Names) -> None:
    """Move all entries of ``new`` into ``folder``, in place of the entries ``names`` there.

    The old ones are kept aside until all new ones are in place, and put back if that fails. Both
    folders are on one file system.

    Raises:
        OSError: something could not be moved; ``folder`` is as it was.
    """
    moved: list[tuple[Path, Path]] = []

    def move(entry: Path, into: Path) -> None:
        entry.rename(into / entry.name)
        moved.append((entry, into / entry.name))

    prefix = f".{folder.resolve().name}.old."
    with tempfile.TemporaryDirectory(dir=new.parent, prefix=prefix) as aside:
        try:
            for entry in entries_of(folder, names):
                move(entry, Path(aside))
            for entry in sorted(new.iterdir()):
                move(entry, folder)
        except BaseException:
            for before, after in reversed(moved):
                after.rename(before)
            raise
