"""saev's shards into a cache. The files are written here as its protocol says, 1.0 and 2.1."""

import json

import numpy as np
import pytest
from lm_fixtures import VOCAB, llama_config, random_model, save_model
from test_import_rows import T, W, check, command, given, refused

from vasae_jax.cache import Cache, verify
from vasae_jax.cli.main import main
from vasae_jax.extract.row_files import open_rows
from vasae_jax.sites import Site

LAYERS = (0, 2)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(random_model(llama_config()), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def width():
    return llama_config().hidden_size


def write_shards(folder, acts, older=False, cls_token=False, room=8, layers=LAYERS, **changed):
    """``acts`` [W, L, T, d] in files of ``room`` examples; a full last file is followed by one
    that was opened and not filled, as the library leaves it."""
    folder.mkdir(parents=True)
    names = ("n_imgs", "n_patches_per_img", "d_vit") if older else (
        "n_examples", "content_tokens_per_example", "d_model",
    )  # fmt: skip
    count, _, tokens, width = acts.shape
    sizes = dict(zip(names, (count, tokens - cls_token, width), strict=True))
    meta = {"layers": list(layers), "cls_token": cls_token, "dtype": "float32", **sizes}
    meta["protocol"] = "1.0.0" if older else "2.1"
    (folder / "metadata.json").write_text(json.dumps(meta | changed), encoding="utf-8")
    entries = []
    for number, first in enumerate(range(0, count + 1, room)):
        part = acts[first : first + room]
        file = np.memmap(
            folder / f"acts{number:06}.bin", np.float32, mode="w+", shape=(room, *acts.shape[1:])
        )
        file[: len(part)] = part
        file.flush()
        entries.append({"name": f"acts{number:06}.bin", names[0]: len(part)})
    (folder / "shards.json").write_text(json.dumps(entries), encoding="utf-8")
    return folder


def stacked(rows):
    """Rows [W, T, d] as layer 2, beside others as layer 0."""
    return np.stack([rows + 1, rows], axis=1)


@pytest.mark.parametrize(("older", "cls_token", "room"), [(False, True, 8), (True, False, 10)])
def test_shards_and_token_ids_beside_them(tmp_path, model, width, older, cls_token, room):
    rows, tokens, _ = given(width)
    source = write_shards(tmp_path / "shards", stacked(rows), older, cls_token, room)
    np.save(tmp_path / "tokens.npy", tokens)
    asked = command(source, model, tmp_path / "out", layer=2, heldout_share=0.2)
    assert main([*asked, f"--tokens={tmp_path / 'tokens.npy'}"]) == 0
    cache = Cache.open(str(tmp_path / "out"))
    check(cache, rows, tokens, np.arange(W), 2)
    assert verify(cache.url) == []


def test_a_read_goes_over_files(tmp_path, width):
    rows, tokens, _ = given(width)
    source = write_shards(tmp_path / "shards", stacked(rows), room=4)
    np.save(tmp_path / "tokens.npy", tokens.reshape(-1))  # laid flat
    found = open_rows(str(source), layer=0, tokens=str(tmp_path / "tokens.npy"))
    assert found.site == Site(0)
    np.testing.assert_array_equal(found.tokens, tokens)
    for first, last in ((0, W), (3, 13), (8, 9), (29, 30)):
        np.testing.assert_array_equal(found.read(first, last), rows[first:last] + 1)


def test_the_only_layer_is_taken_and_one_from_the_end_must_be_named(tmp_path, width):
    rows, tokens, _ = given(width)
    np.save(tmp_path / "tokens.npy", tokens)
    ids = str(tmp_path / "tokens.npy")
    one = write_shards(tmp_path / "one", rows[:, None], layers=(2,))
    assert open_rows(str(one), "saev", tokens=ids).site == Site(2)
    last = write_shards(tmp_path / "last", rows[:, None], layers=(-1,))
    assert open_rows(str(last), "saev", tokens=ids).site is None
    assert open_rows(str(last), "saev", tokens=ids, layer=2).shape[2] == width


def test_what_does_not_fit_is_one_sentence_and_nothing_is_written(tmp_path, model, width, capsys):
    rows, tokens, _ = given(width)
    np.save(tmp_path / "tokens.npy", tokens)
    np.save(tmp_path / "few.npy", tokens[:-1])
    np.save(tmp_path / "large.npy", tokens + VOCAB)
    out, number = tmp_path / "out", iter(range(100))

    def said(layer=2, ids="tokens.npy", damage=None, **changed):
        source = write_shards(tmp_path / f"shards{next(number)}", stacked(rows), **changed)
        if damage is not None:
            damage(source)
        asked = command(source, model, out, **({} if layer is None else {"layer": layer}))
        return refused(capsys, [*asked, *([f"--tokens={tmp_path / ids}"] if ids else [])])

    def cut(source):
        (source / "acts000001.bin").write_bytes(b"\0" * 100)

    def elsewhere(source):
        (source / "shards.json").write_text(
            json.dumps([{"name": "../x", "n_examples": W}]), encoding="utf-8"
        )

    assert f"no token ids; expected --tokens FILE.npy with integers of shape ({W}, {T})" in (
        said(ids=None)
    )
    assert "layer is None; expected one of 0, 2" in said(layer=None)
    assert "layer is 1; expected one of 0, 2" in said(layer=1)
    assert "has tokens of shape (29, 8)" in said(ids="few.npy")
    assert "the vocabulary" in said(ids="large.npy")
    assert "acts000001.bin has 100 bytes; expected" in said(damage=cut)
    assert "names a file '../x'" in said(damage=elsewhere)
    assert "has 30 examples in all; expected the 31" in said(n_examples=31)
    assert "has d_model 'wide'; expected an integer" in said(d_model="wide")
    assert "is not of float32 rows" in said(dtype="float16")
    assert "expected a list of integers" in said(**{"layers": ()})
    assert not out.exists()


def test_token_ids_twice_are_refused(tmp_path, model, width, capsys):
    rows, tokens, _ = given(width)
    (tmp_path / "rows").mkdir()
    np.save(tmp_path / "rows" / "rows.npy", rows)
    np.save(tmp_path / "tokens.npy", tokens)
    asked = command(tmp_path / "rows", model, tmp_path / "out", layer=1, heldout_share=0.2)
    asked.append(f"--tokens={tmp_path / 'tokens.npy'}")
    assert main(asked) == 0
    check(Cache.open(str(tmp_path / "out")), rows, tokens, np.arange(W), 1)
    np.save(tmp_path / "rows" / "tokens.npy", tokens)
    assert "has token ids; expected no --tokens" in refused(capsys, asked)
