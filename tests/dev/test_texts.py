"""The scripts that make texts: packages by digest, and documents without repeats."""

import io
import sys
import tarfile
from pathlib import Path

import pytest

from vasae_jax.extract.windows import document_fraction
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import sha256_file

TOOLS = Path(__file__).parents[2] / "tools" / "texts"


@pytest.fixture(scope="module")
def tools():
    """The modules ``packages`` and ``mixed``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        import mixed
        import packages

        yield packages, mixed
        for name in ("packages", "works", "mixed"):
            sys.modules.pop(name, None)


@pytest.fixture
def archive(tmp_path):
    file = tmp_path / "made.tgz"
    with tarfile.open(file, "w:gz") as tar:
        info = tarfile.TarInfo("package/text.txt")
        info.size = 5
        tar.addfile(info, io.BytesIO(b"words"))
    return file


def test_a_package_is_unpacked_once_its_digest_fits(tools, archive, tmp_path, monkeypatch):
    packages, _ = tools
    calls = []

    def download(package, folder):
        calls.append(package)
        return Path(archive).rename(folder / "made.tgz")

    monkeypatch.setattr(packages, "_download", download)
    package = packages.Package("npm", "made", "1", sha256_file(archive))
    for _ in range(2):
        files = packages.fetch(package, tmp_path / "kept")
        assert (files / "package" / "text.txt").read_bytes() == b"words"
    assert calls == [package]


def test_a_package_with_another_digest_is_refused(tools, archive, tmp_path, monkeypatch):
    packages, _ = tools
    monkeypatch.setattr(packages, "_download", lambda package, folder: archive)
    with pytest.raises(UserError, match=r"made 1 \(npm\) has SHA-256"):
        packages.fetch(packages.Package("npm", "made", "1", "0" * 64), tmp_path / "kept")
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_package_without_its_client_is_refused(tools, tmp_path, monkeypatch):
    packages, _ = tools
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="apt-get is not installed"):
        packages.fetch(packages.Package("apt", "made", "1", "0" * 64), tmp_path / "kept")


def test_a_kind_has_no_paragraph_twice_and_is_bounded(tools, monkeypatch):
    _, mixed = tools
    paragraphs = [f"paragraph {i} " + "word " * 120 for i in range(9)]
    texts = ["\n\n".join(paragraphs[:4]), "\n\n".join(paragraphs[2:6]), "short", paragraphs[8]]
    records = [{"kind": "x", "title": str(i), "text": text} for i, text in enumerate(texts)]
    seen = set()
    found = mixed.documents(records, "made", seen)
    text = "\n\n".join(record["text"] for record in found)
    assert [text.count(f"paragraph {i} ") for i in range(9)] == [1] * 6 + [0, 0, 1]
    assert {record["kind"] for record in found} == {"made"}
    assert mixed.documents(records, "again", seen) == []
    monkeypatch.setattr(mixed, "CHARACTERS", 2600)
    few = mixed.documents(records, "made", set())
    assert 0 < sum(len(record["text"]) for record in few) <= 2600


def test_the_sample_of_a_kind_is_not_what_is_held_out(tools, monkeypatch):
    """A sample by the digest that decides the split would be nearly all held out."""
    _, mixed = tools
    records = [{"title": str(i), "text": f"{i} " + "word " * 120} for i in range(400)]
    monkeypatch.setattr(mixed, "CHARACTERS", 600 * 100)
    found = mixed.documents(records, "made", set())
    heldout = sum(document_fraction(record["text"].encode()) < 0.1 for record in found)
    assert heldout < len(found) / 4
