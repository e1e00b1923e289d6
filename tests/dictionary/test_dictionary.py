"""The dictionary survives a round trip, is usable by NumPy alone, and vouches for itself."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from dictionary_fixtures import D, F, K, M, dictionary, params
from full_disks import full_beyond

from vasae_jax.activations import TopK
from vasae_jax.cache.vocab import Vocab
from vasae_jax.dictionary.claims import CLAIM, LAYER_CLAIM
from vasae_jax.dictionary.dictionary import ARRAYS
from vasae_jax.dictionary.files import read_dictionary, write_dictionary
from vasae_jax.sae import decode, encode
from vasae_jax.utils.errors import UserError


@pytest.fixture
def written(tmp_path):
    write_dictionary(tmp_path / "dictionary.npz", dictionary())
    return tmp_path


def test_round_trip(written):
    before, after = dictionary(), read_dictionary(written / "dictionary.npz")
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
    assert after.tokens == before.tokens
    assert after.meta["provenance"] == before.meta["provenance"]


def test_the_documented_numpy_alone_reconstructs_what_the_trainer_does(written, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "dictionary.md").read_text(encoding="utf-8")
    monkeypatch.chdir(written)
    documented = {}
    exec(page.split("```python\n")[1].split("```")[0], documented)
    x = np.random.default_rng(1).normal(size=(50, D)).astype(np.float32)
    weights = {name: jnp.asarray(value) for name, value in params().items()}
    expected = decode(weights, *encode(weights, jnp.asarray(x), TopK(K), 1.0))
    np.testing.assert_allclose(documented["decode"](documented["encode"](x)), expected, atol=1e-5)


def test_the_npz_is_as_documented(written):
    file = np.load(written / "dictionary.npz")
    assert set(file.files) == set(ARRAYS)
    assert file["W_enc"].shape == (D, F) and file["W_dec"].shape == (F, D)
    assert file["token_ids"].dtype == np.int32 and file["cosines"].dtype == np.float32
    assert file["layer_token_ids"].shape == file["layer_hold"].shape == (F, M)
    assert file["verdict"].dtype == file["layer_relation"].dtype == np.int8


def test_names_are_one_json_line_a_feature(written):
    lines = (written / "names.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    source = dictionary()
    assert [record["feature"] for record in records] == list(range(F))
    for record in records:
        ids = [name["token_id"] for name in record["names"]]
        assert ids == source.token_ids[record["feature"]].tolist()
        best = record["names"][0]["cosine"]
        expected = next(
            n for n, b in (("strong", 0.8), ("medium", 0.5), ("weak", 0.3)) if best >= b
        )
        assert record["bucket"] == expected
        assert set(record["names"][0]) == {"token_id", "raw", "display", "cosine"}


def test_layer_names_are_in_the_same_line(written):
    lines = (written / "names.jsonl").read_text(encoding="utf-8").splitlines()
    records, source = [json.loads(line) for line in lines], dictionary()
    words = {1: "holds", 2: "in part", 0: "untested", -1: "does not hold"}
    for feature, record in enumerate(records):
        names = record["layer_names"]
        assert [name["token_id"] for name in names] == source.layer_token_ids[feature].tolist()
        assert [name["rows"] for name in names] == source.layer_rows[feature].tolist()
        for key, array in (("hold", source.layer_hold), ("lift", source.layer_lift)):
            np.testing.assert_allclose([name[key] for name in names], array[feature], atol=0.006)
        assert [name["text_rows"] for name in names] == source.layer_text_rows[feature].tolist()
        verdicts = [words[verdict] for verdict in source.layer_verdict[feature].tolist()]
        assert [name["verdict"] for name in names] == verdicts
        for name in names:
            precision, recall = name["rows"] / name["text_rows"], name["rows"]
            assert name["precision"] == pytest.approx(precision, abs=1e-6)
            recall /= int(source.fired_rows[feature])
            assert name["recall"] == pytest.approx(recall, abs=1e-6)
        assert record["relation"] == ("at", "before")[feature % 2]
        assert record["verdict"] == words[int(source.verdict[feature])]
        assert record["verdict_together"] == words[int(source.verdict_together[feature])]
        assert record["hold"] == pytest.approx(float(source.hold[feature]), abs=1e-6)


def test_token_strings_never_break_a_line_and_survive(tmp_path):
    source = dictionary()
    strange = dict.fromkeys(source.tokens, ("a\u2028b\u0085\u2029\n", "x"))
    source = dataclasses.replace(source, tokens=strange)
    write_dictionary(tmp_path / "dictionary.npz", source)
    assert len((tmp_path / "names.jsonl").read_text(encoding="utf-8").splitlines()) == F
    assert read_dictionary(tmp_path / "dictionary.npz").tokens == strange


def test_stated_and_raw_names_are_both_kept():
    found = dictionary()
    assert not np.array_equal(found.token_ids, found.raw_token_ids)


def test_meta_states_the_claim_the_anchor_and_where_it_comes_from(written):
    meta = json.loads((written / "meta.json").read_text(encoding="utf-8"))
    assert meta["claim"] == CLAIM and meta["layer_claim"] == LAYER_CLAIM
    assert (meta["version"], meta["hold_over"]) == (5, "900 rows")
    assert meta["activation"] == {"kind": "topk", "k": K}
    assert meta["anchor"] == "input embeddings minus their mean"
    assert meta["provenance"]["cache_digest"] == "22"


def test_the_same_dictionary_gives_the_same_bytes(tmp_path):
    paths = [write_dictionary(tmp_path / name / "d.npz", dictionary()) for name in "ab"]
    assert [p.read_bytes() for p in paths[0]] == [p.read_bytes() for p in paths[1]]


@pytest.mark.parametrize("name", ["dictionary.npz", "names.jsonl"])
def test_nothing_is_written_over_an_existing_file_unless_asked(tmp_path, name):
    (tmp_path / name).write_text("precious", encoding="utf-8")
    with pytest.raises(UserError, match=f"{name} exists already"):
        write_dictionary(tmp_path / "dictionary.npz", dictionary())
    assert [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()] == ["precious"]
    write_dictionary(tmp_path / "dictionary.npz", dictionary(), overwrite=True)
    read_dictionary(tmp_path / "dictionary.npz")


@pytest.mark.fault
@pytest.mark.parametrize("size", [0, 300, 5000])
def test_a_disk_that_fills_up_leaves_nothing_behind(tmp_path, size):
    made = dictionary()
    with full_beyond(size), pytest.raises(UserError, match=r"cannot write .*: File too large; exp"):
        write_dictionary(tmp_path / "dictionary.npz", made)
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    broken = dataclasses.replace(dictionary(), fire_rate=np.zeros(F + 1))
    infinite = dataclasses.replace(dictionary(), b_dec=np.full(D, np.inf))
    for wrong, message in ((broken, "array fire_rate"), (infinite, "array b_dec .* not finite")):
        with pytest.raises(UserError, match=message):
            write_dictionary(tmp_path / "dictionary.npz", wrong)
    with pytest.raises(UserError, match=r"not an \.npz name"):
        write_dictionary(tmp_path / "dictionary", dictionary())
    assert list(tmp_path.iterdir()) == []


def test_files_of_two_exports_are_not_mixed(written, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    write_dictionary(other / "dictionary.npz", dictionary(seed=1))
    (written / "dictionary.npz").write_bytes((other / "dictionary.npz").read_bytes())
    with pytest.raises(UserError, match=r"dictionary\.npz is not the file that"):
        read_dictionary(written / "dictionary.npz")


def test_a_name_without_a_string_is_refused():
    with pytest.raises(UserError, match="is a name and the vocabulary has 5 strings"):
        dictionary(vocab=Vocab("plain", tuple("abcde")))


@pytest.mark.parametrize("name", ["dictionary.npz", "names.jsonl", "meta.json"])
def test_a_missing_file_is_named(written, name):
    (written / name).unlink()
    with pytest.raises(UserError, match=f"{name} is not there"):
        read_dictionary(written / "dictionary.npz")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "is not JSON"),
        ("{}", "lacks"),
        ('{"format": "vasae-dictionary", "version": 6}', "version 6"),
        ('{"format": "vasae-dictionary", "version": 1}', "version 1"),
        ('{"format": "vasae-dictionary", "version": 2}', "no digests"),
    ],
)
def test_foreign_and_newer_metadata_is_refused(written, text, message):
    (written / "meta.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_dictionary(written / "dictionary.npz")
