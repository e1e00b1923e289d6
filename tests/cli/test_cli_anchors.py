"""``vasae anchors`` as a user meets it."""

from pathlib import Path

import pytest
from cache_fixtures import make_cache

from vasae_jax.cache import Cache
from vasae_jax.cli.main import main


@pytest.fixture
def cache(tmp_path) -> Cache:
    return make_cache(tmp_path, rows=300, vocab=60)


def files(cache):
    return {path: path.read_bytes() for path in Path(cache.url).rglob("*") if path.is_file()}


def test_anchors_are_computed_and_stored(cache, capsys):
    assert main(["anchors", cache.url, "--layers", "1,3"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said] == ["layers.1.resid_post", "layers.3.resid_post"]
    for words in ("285 rows", "of 60;", "explained by embeddings", "MB, computed in"):
        assert all(words in line for line in said), words
    before = files(cache)
    assert main(["anchors", cache.url, "--skip-positions=1", "--max-norm=3"]) == 0
    assert capsys.readouterr().out.count("already stored") == 2
    assert files(cache) == before
    assert main(["anchors", cache.url, "--layers=3", "--overwrite"]) == 0
    assert "computed in" in capsys.readouterr().out
    assert files(cache) == before
    assert main(["cache", "verify", cache.url]) == 0


def test_damage_is_found_by_verify_and_replaced_by_overwrite(cache, capsys):
    assert main(["anchors", cache.url, "--layers=3"]) == 0
    victim = next((Path(cache.url) / "anchors").rglob("at-*/c/0/0"))
    data = bytearray(victim.read_bytes())
    data[100] ^= 1
    victim.write_bytes(bytes(data))
    assert main(["cache", "verify", cache.url]) == 2
    assert "at-" in capsys.readouterr().out
    assert main(["anchors", cache.url, "--layers=3"]) == 2
    assert main(["anchors", cache.url, "--layers=3", "--overwrite"]) == 0
    assert main(["cache", "verify", cache.url]) == 0


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["--layers=1,2"], "layers.2.resid_post"),
        (["--layers=x"], "x"),
        (["--skip-positions=-1"], "-1"),
        (["--max-norm=-1"], "-1"),
        (["--skip-positions=99"], "skip_positions"),
    ],
)
def test_a_mistake_gets_one_sentence_and_writes_nothing(cache, capsys, arguments, value):
    before = files(cache)
    assert main(["anchors", cache.url, *arguments]) == 2
    said = capsys.readouterr().err
    assert value in said and said.startswith("vasae: ") and said.count("\n") == 1
    assert files(cache) == before


def test_no_cache_is_one_sentence(tmp_path, capsys):
    assert main(["anchors", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
