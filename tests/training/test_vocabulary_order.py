"""Embedding rows in another order than the token strings: training and naming refuse them."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from cache_fixtures import append, make_cache, make_plan, make_rows, make_vocabulary
from test_train import config_for

from vasae_jax.cache import Cache, CacheWriter
from vasae_jax.cache.store import Store
from vasae_jax.cache.vocab import Vocab
from vasae_jax.evaluation.publish import publish
from vasae_jax.evaluation.run import open_anchors_of
from vasae_jax.training.loop import train
from vasae_jax.training.run import open_trained
from vasae_jax.utils.errors import UserError

pytestmark = pytest.mark.fault


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run, beside the cache that it was trained on."""
    home = tmp_path_factory.mktemp("home")
    cache = make_cache(home, rows=600, d=16, vocab=40, layers=(1, 3)).url
    return train(config_for(cache, home / "run", steps=2))


@pytest.fixture
def cache(run, tmp_path):
    """A copy of that cache, to be damaged."""
    return str(shutil.copytree(run.parent / "cache", tmp_path / "cache"))


def rotate_strings(url):
    file = f"{url}/vocab/tokens.json"
    with open(file, encoding="utf-8") as before:
        value = json.load(before)
    value["raw"] = value["raw"][1:] + value["raw"][:1]
    with open(file, "w", encoding="utf-8") as after:
        json.dump(value, after)


def rotate_rows(url):
    array = Store(url).open_array("vocab/embedding")  # TensorStore renews the checksums
    array.write(np.roll(array.read().result(), 1, axis=0)).result()


ROTATED = {"tokens.json": rotate_strings, "embedding": rotate_rows}


@pytest.mark.parametrize("name", ROTATED)
def test_either_rotated_is_refused_in_training_and_naming(cache, run, tmp_path, name):
    ROTATED[name](cache)
    sentence = rf"vocab/{name} has content of SHA-256 \w+; expected \w+"
    with pytest.raises(UserError, match=sentence):
        train(config_for(cache, tmp_path / "new"))
    assert not (tmp_path / "new" / "checkpoints" / "2").exists()
    with pytest.raises(UserError, match=sentence):
        publish(open_trained(str(run), cache))


def test_another_whole_cache_in_another_order_is_refused(run, tmp_path):
    plan = make_plan()
    vocabulary = make_vocabulary(plan)
    strings = vocabulary.vocab.raw
    swapped = replace(vocabulary, vocab=Vocab("plain", (*strings[1:], strings[0])))
    url = str(tmp_path / "other")
    with CacheWriter(url, plan, swapped) as writer:
        append(writer, "train", make_rows(plan, 70))
        append(writer, "heldout", make_rows(plan, 20, first_doc=1000))
        writer.finish()
    with pytest.raises(UserError, match=r"embeddings and token strings of digest .* same order"):
        open_trained(str(run), url)
    with pytest.raises(UserError, match=r"has token strings of digest"):
        open_anchors_of(url, open_trained(str(run)))


def test_a_run_of_an_earlier_version_opens_with_another_cache_as_before(run, cache, tmp_path):
    earlier = shutil.copytree(run, tmp_path / "run")
    record = json.loads((earlier / "config.json").read_text(encoding="utf-8"))
    assert record.pop("vocabulary_digest") == Cache.open(cache).manifest.vocabulary_digest
    (earlier / "config.json").write_text(json.dumps(record), encoding="utf-8")
    assert open_trained(str(earlier), cache).step == 2
