"""A cache written in parts by many jobs equals the one that a single job writes."""

import json

import pytest
from cache_fixtures import make_cache, make_plan, make_rows, make_vocabulary
from lm_fixtures import gpt2_config, random_model, save_model

from vasae_jax.cache import Cache, Part, PartWriter, finish, verify
from vasae_jax.cli.main import main
from vasae_jax.extract import extract, read_documents
from vasae_jax.extract.pipeline import Settings
from vasae_jax.lm import load_lm
from vasae_jax.utils.errors import UserError

ROWS = {"train": 1000, "heldout": 200}
PARTS = 3


def open_part(url, index, count=PARTS, **changes):
    plan = make_plan(**changes)
    return PartWriter(str(url), plan, make_vocabulary(plan), ROWS, Part(index, count))


def sources(plan):
    return {
        "train": make_rows(plan, ROWS["train"]),
        "heldout": make_rows(plan, ROWS["heldout"], seed=1, first_doc=1_000_000),
    }


def write_part(url, index, stop=None):
    """All rows of a part, in pieces that do not end where parts do."""
    with open_part(url, index) as writer:
        for split, rows in sources(writer.plan).items():
            for start in range(0, ROWS[split], 50):
                one = rows.part(start, start + 50)
                writer.append(split, one.tokens, one.positions, one.docs, one.acts, start=start)
                if stop is not None and start >= stop:
                    return
        writer.finish_part()


def files(place):
    names = (path for path in place.rglob("*") if path.is_file())
    found = {str(path.relative_to(place)): path.read_bytes() for path in names}
    manifest = json.loads(found.pop("manifest.json"))
    del manifest["checksum"]  # over the order of the keys too
    return manifest, found


def test_parts_join_to_the_cache_of_one_job(tmp_path):
    make_cache(tmp_path, name="one")
    place = tmp_path / "many"
    write_part(place, 2)
    write_part(place, 1, stop=600)  # killed in the middle, then run again
    write_part(place, 1)
    with pytest.raises(UserError, match="part 0/3 is missing; expected all 3 parts"):
        finish(str(place))
    with pytest.raises(UserError, match="is no activation cache"):
        Cache.open(str(place))
    write_part(place, 0)
    assert main(["cache", "finish", str(place)]) == 0
    assert verify(str(place)) == []
    assert files(place) == files(tmp_path / "one")
    with pytest.raises(UserError, match="is a complete cache"):
        open_part(place, 0)


@pytest.mark.fault
def test_two_writers_of_one_part_are_refused(tmp_path):
    with (
        open_part(tmp_path / "cache", 1),
        pytest.raises(UserError, match=r"1-of-00003.lock is held by process \d+ on"),
    ):
        open_part(tmp_path / "cache", 1)
    open_part(tmp_path / "cache", 1).close()  # free again


def test_parts_that_do_not_fit_are_refused(tmp_path):
    url = tmp_path / "cache"
    write_part(url, 0)
    with pytest.raises(UserError, match="is of another number of parts"):
        open_part(url, 1, count=4)
    with pytest.raises(UserError, match="is of a cache with another plan"):
        open_part(url, 1, heldout_share=0.5)
    open_part(url, 1).close()
    with pytest.raises(UserError, match="part 1/3 is unfinished"):
        finish(str(url))


def test_extraction_in_parts_equals_one_extraction(tmp_path):
    model = load_lm(str(save_model(random_model(gpt2_config(n_layer=2)), tmp_path / "model")))
    settings = Settings(
        layers=(0, 1), context_length=32, max_rows=4000, chunk_rows=64, shard_rows=256
    )

    def run(name, part=None):
        text = read_documents("pydoc-topics", "text", "train")
        extract(model, text, str(tmp_path / name), settings, source="pydoc-topics", part=part)

    run("one")
    for index in (1, 0):
        run("many", Part(index, 2))
    finish(str(tmp_path / "many"))
    assert files(tmp_path / "many") == files(tmp_path / "one")
