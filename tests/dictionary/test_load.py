"""A published dictionary, with NumPy alone: what it gives, how soon, and what it refuses."""

import subprocess
import sys

import numpy as np
import pytest
from dictionary_fixtures import D, F, K, dictionary

import vasae_jax as vj
from vasae_jax.activations.topk import keep_largest
from vasae_jax.dictionary.claims import HOLDS, IN_PART
from vasae_jax.dictionary.files import write_dictionary
from vasae_jax.utils.errors import UserError

ROWS = np.random.default_rng(1).normal(size=(50, D)).astype(np.float32) * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("published")
    write_dictionary(place / "dictionary.npz", dictionary())
    return place


@pytest.fixture(scope="module")
def sae(folder):
    return vj.load(folder)


def slow_encode(d, x):
    """z in float64, one row and one feature at a time."""
    pre = (x.astype(np.float64) - d.pre_bias * d.b_dec) @ d.W_enc.astype(np.float64) + d.b_enc
    z = np.zeros_like(pre)
    for row, values in enumerate(pre):
        best = sorted(range(len(values)), key=lambda i: (-values[i], i))[: d.k]
        for i in best:
            if values[i] > max(d.threshold[i], 0):
                z[row, i] = values[i]
    return z


def test_activations_and_rows_are_those_of_the_formula(sae):
    z, x_hat = sae.encode(ROWS), sae.decode(sae.encode(ROWS))
    expected = slow_encode(sae, ROWS)
    np.testing.assert_allclose(z, expected, atol=1e-4)
    np.testing.assert_allclose(x_hat, expected @ sae.W_dec + sae.b_dec, atol=1e-4)
    assert z.dtype == x_hat.dtype == np.float32
    assert (z > 0).sum(axis=1).max() == K


def test_leading_axes_are_kept(sae):
    z = sae.encode(ROWS.reshape(5, 10, D))
    assert z.shape == (5, 10, F) and sae.decode(z).shape == (5, 10, D)
    np.testing.assert_allclose(sae.encode(ROWS[0]), z[0, 0], rtol=1e-5)


def test_equal_activations_go_to_the_lower_feature():
    z = np.array([[2.0, 1.0, 1.0, 1.0, 3.0], [0.0, 0.0, 0.0, 0.0, 1.0]], np.float32)
    expected = [[2, 1, 0, 0, 3], [0, 0, 0, 0, 1]]
    np.testing.assert_array_equal(keep_largest(z, 3), np.array(expected, np.float32))


def test_names_are_those_of_the_file(sae):
    found, source = sae.names(3), dictionary()
    assert [name.token_id for name in found.layer] == source.layer_token_ids[3].tolist()
    assert [near.token_id for near in found.embedding] == source.token_ids[3].tolist()
    assert (found.relation, found.verdict) == ("before", "holds")
    assert found.layer[0].text == source.tokens[found.layer[0].token_id][1]


def test_search_finds_every_feature_that_has_the_name_and_exact_ones_first(sae):
    found = sae.search(" W1 ", limit=F)
    wanted = {t for t, (_, text) in sae.tokens.items() if text == "␣w1"}
    have = np.isin(sae.layer_token_ids, list(wanted)).any(axis=1)
    have |= np.isin(sae.token_ids, list(wanted)).any(axis=1)
    exact = [one.feature for one in found if one.text == "␣w1"]
    assert set(exact) == set(np.flatnonzero(have))
    assert exact == [one.feature for one in found[: len(exact)]]
    assert len({one.feature for one in found}) == len(found)
    assert any(one.text.startswith("␣w1") and one.text != "␣w1" for one in found)


def test_explain_orders_features_by_what_they_add(sae):
    row = ROWS[4]
    found, z = sae.explain(row, top=3), sae.encode(row)
    parts = z * np.linalg.norm(sae.W_dec, axis=1)
    assert [one.names.feature for one in found] == np.argsort(-parts)[:3].tolist()
    np.testing.assert_allclose(
        [one.contribution for one in found], np.sort(parts)[::-1][:3], rtol=1e-5
    )


def test_a_folder_with_one_npz_is_that_dictionary(tmp_path):
    write_dictionary(tmp_path / "mine.npz", dictionary())
    assert vj.load(tmp_path).d_sae == F


def test_a_version_2_file_has_threshold_0(folder, tmp_path):
    import json

    from vasae_jax.utils.files import sha256_file

    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with np.load(tmp_path / "dictionary.npz") as file:
        old = {name: file[name] for name in file.files if name != "threshold"}
    for name in ("verdict", "verdict_together"):  # there was no "in part"
        old[name] = np.where(old[name] == IN_PART, HOLDS, old[name]).astype(np.int8)
    np.savez(tmp_path / "dictionary.npz", **old)
    meta = json.loads((tmp_path / "meta.json").read_text(encoding="utf-8"))
    meta["version"], meta["sha256"]["npz"] = 2, sha256_file(tmp_path / "dictionary.npz")
    (tmp_path / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    np.testing.assert_array_equal(vj.load(tmp_path).threshold, np.zeros(F, np.float32))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda sae: sae.encode(ROWS[:, :-1]),
            r"rows have shape \(50, 5\); expected \[\.\.\., 6\]",
        ),
        (lambda sae: sae.encode(ROWS * np.nan), "a row is not finite"),
        (lambda sae: sae.decode(ROWS), r"activations have shape \(50, 6\)"),
        (lambda sae: sae.names(F), f"there is no feature {F}; expected 0 to {F - 1}"),
        (lambda sae: sae.search(" "), "the text to search for is empty"),
        (lambda sae: sae.explain(ROWS), r"the row has shape \(50, 6\)"),
    ],
)
def test_what_does_not_fit_is_one_sentence(sae, call, sentence):
    with pytest.raises(UserError, match=sentence):
        call(sae)


def test_a_folder_without_a_dictionary_says_how_one_is_made(tmp_path):
    with pytest.raises(UserError, match=r"holds 0 \.npz files; .* vasae export RUN --out"):
        vj.load(tmp_path)


def test_loading_and_using_it_imports_no_jax(folder):
    code = (
        f"import sys, vasae_jax as vj; sae = vj.load({str(folder)!r});"
        "sae.decode(sae.encode(sae.b_dec)); sae.search('w'); sae.explain(sae.b_dec);"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    heavy = {"jax", "flax", "scipy", "torch", "tensorstore", "transformers"}
    assert "numpy" in done.stdout.split() and not heavy & set(done.stdout.split())


NEW_ARRAYS = ("layer_text_rows", "layer_verdict", "fired_rows", "verdict_together")


def test_names_of_a_version_4_file_are_shown_as_tested_together(folder, tmp_path):
    import json

    from vasae_jax.dictionary.card import name_table
    from vasae_jax.dictionary.files import write_dictionary
    from vasae_jax.utils.files import sha256_file

    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with np.load(tmp_path / "dictionary.npz") as file:
        old = {name: file[name] for name in file.files if name not in NEW_ARRAYS}
    old["verdict"] = np.minimum(old["verdict"], 1)  # 2 is new
    np.savez(tmp_path / "dictionary.npz", **old)
    meta = json.loads((tmp_path / "meta.json").read_text(encoding="utf-8"))
    meta["version"], meta["sha256"]["npz"] = 4, sha256_file(tmp_path / "dictionary.npz")
    (tmp_path / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    copy = tmp_path / "again"
    copy.mkdir()
    write_dictionary(copy / "dictionary.npz", vj.load(tmp_path))
    for read in (vj.load(tmp_path), vj.load(copy)):  # and written again they stay so
        assert read.tested_together and read.shown.all()
        words = {1: "holds", 0: "no evidence", -1: "contradicted"}
        for feature in range(F):
            names = read.names(feature)
            assert names.verdict == words[int(read.verdict[feature])]
            assert {name.verdict for name in names.layer} == {"tested together"}
            assert names.first == names.layer[0] and names.first.precision is None
        assert "tested together" in name_table(read).replace("\n", " ")
