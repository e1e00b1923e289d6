"""Positions of rows of another program: taken, counted from the tokens, or refused."""

import json
import types

import ml_dtypes
import numpy as np
import pytest
from lm_fixtures import VOCAB, llama_config, random_model, save_model
from safetensors.numpy import save_file
from test_import_rows import T, W, command, given, refused, write_arrow, write_npy

from vasae_jax.cache import Cache, verify
from vasae_jax.cache.manifest import NOT_KNOWN, position_in_window
from vasae_jax.cli.main import main
from vasae_jax.config import Mask
from vasae_jax.evaluation.patching.model import WindowTable
from vasae_jax.extract.external_rows import ExternalRows
from vasae_jax.extract.import_rows import _digest
from vasae_jax.extract.row_files import open_rows
from vasae_jax.extract.row_places import IN_ORDER, UNKNOWN, Order, place_rows
from vasae_jax.report.summary import Snippets
from vasae_jax.stream.order import next_tokens
from vasae_jax.stream.source import Source
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import sha256_bytes

pytestmark = pytest.mark.fault

BOS, EOS, PAD = 0, 1, 2


def tokenizer(bos_id=BOS, add_bos=False):
    special = types.SimpleNamespace(special=True)
    added = dict.fromkeys((BOS, EOS, PAD), special) | {3: types.SimpleNamespace(special=False)}
    backend = types.SimpleNamespace(get_added_tokens_decoder=lambda: added)
    return types.SimpleNamespace(bos_id=bos_id, eos_id=EOS, add_bos=add_bos, backend=backend)


def rows_of(tokens, **given):
    tokens = np.array(tokens, np.uint64 if np.max(tokens) >= 2**63 else None)
    values = np.zeros((*tokens.shape, 2), np.float32)
    arrays = {k: np.asarray(v) if isinstance(v, list) else v for k, v in given.items()}
    return ExternalRows("rows", values.shape, lambda a, b: values[a:b], tokens, **arrays)


def placed(tokens, order=IN_ORDER, bos_id=BOS, add_bos=False, share=0.5, **arrays):
    return place_rows(rows_of(tokens, **arrays), tokenizer(bos_id, add_bos), share, order)


def test_windows_without_a_bos_are_counted_from_0():
    found = placed([[5, 6, 7], [8, 9, 10]])
    assert found.positions.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert found.docs.tolist() == [[0, 0, 0], [1, 1, 1]]
    assert found.heldout.tolist() == [[False] * 3, [True] * 3]
    assert found.keep.all() and not found.bos


def test_a_window_begins_at_each_bos():
    found = placed([[BOS, 5, 6, BOS, 7], [BOS, BOS, 8, 9, BOS]])
    assert found.positions.tolist() == [[0, 1, 2, 0, 1], [0, 0, 1, 2, 0]]
    assert found.bos


def test_padding_on_either_side_is_left_out():
    tokens = [[BOS, 5, 6, PAD, PAD], [PAD, PAD, BOS, 7, 8]]
    found = placed(tokens, mask=[[1, 1, 1, 0, 0], [0, 0, 1, 1, 1]])
    assert found.keep.tolist() == [[True] * 3 + [False] * 2, [False] * 2 + [True] * 3]
    assert found.positions[found.keep].tolist() == [0, 1, 2, 0, 1, 2]
    assert found.bos


def test_windows_in_one_row_with_padding_between_begin_at_their_bos():
    found = placed([[BOS, 5, PAD, BOS, 6]], mask=[[1, 1, 0, 1, 1]])
    assert found.positions[found.keep].tolist() == [0, 1, 0, 1]


def test_what_lies_at_padding_does_not_count():
    tokens, mask = [[5, 6, -100], [2**40, 7, 8]], [[1, 1, 0], [0, 1, 1]]
    found = placed(
        tokens, mask=mask, positions=[[0, 1, -1], [-1, 0, 1]], docs=[[0, 0, -1], [-1, 1, 1]]
    )
    assert found.positions[found.keep].tolist() == [0, 1, 0, 1]


def test_positions_are_taken():
    found = placed([[BOS, 5, 6], [7, 8, 9]], positions=[[0, 1, 2], [3, 4, 0]])
    assert found.positions.tolist() == [[0, 1, 2], [3, 4, 0]]


@pytest.mark.parametrize("first", [0, 1, 3])
def test_the_first_position_may_be_told(first):
    order = Order(first_position=first)
    found = placed([[5, 6, 7], [8, BOS, 9]], order, add_bos=True, share=0.1)
    assert found.positions.tolist() == [[first, first + 1, first + 2], [first, 0, 1]]


@pytest.mark.parametrize(
    ("tokens", "arrays", "sentence"),
    [
        ([[5, BOS, 6], [BOS, 7, 8]], {}, "of which some begin without one"),
        ([[5, 6, 7]], {"expects_bos": True}, "no BOS token"),
        ([[BOS, 5, 6, PAD, PAD]], {}, "no mask"),
        ([[PAD, PAD, BOS, 5, 6]], {}, "no mask"),
        ([[BOS, 5, EOS, EOS]], {}, "no mask"),
        ([[5, 6, 7, 8]], {"mask": [[1, 0, 1, 1]]}, "text after padding at row 2 of window 0"),
        ([[5, 6, 7, 8]], {"docs": [[0, 0, 1, 1]]}, "another document at row 2 of window 0"),
        ([[5, 6, 7, 8]], {"positions": [[0, 1, 5, 6]]}, "position 5 after 1"),
        ([[5], [6], [7]], {"positions": [[4], [9], [2]]}, "position 9 after 4"),
        ([[5, 6], [7, 8]], {"docs": [1, 0]}, "expected an ascending number"),
        ([[5, 6]], {"mask": [[0, 0]]}, "0 throughout"),
        ([[5, 6]], {"mask": [[2, 1]]}, "expected 0 at padding"),
        ([[5, 6]], {"mask": np.ones((1, 2), np.float32)}, "expected 0 at padding"),
        ([[5, 6]], {"mask": [[1, 1, 1]]}, "expected 0 at padding"),
        ([[5, 6]], {"positions": [[-1, 0]]}, "-1 among its positions"),
        ([[5, 6]], {"positions": np.zeros((1, 2))}, "expected integers"),
        ([[5, 2**32 + 5]], {}, "4294967301 among its tokens"),
        ([[5, 2**64 - 1]], {}, "18446744073709551615 among its tokens"),
        ([[5, 6]], {"docs": [2**32]}, "4294967296 among its documents"),
        ([[5, 6]], {"docs": [0.5]}, "expected integers"),
        ([[5, 6]], {"dtype": np.dtype(np.complex64)}, "complex64"),
        ([[5, 6]], {"dtype": np.dtype(np.int8)}, "int8"),
        ([[5, 6]], {"dtype": np.dtype("V4")}, "floating-point"),
    ],
)
def test_what_is_not_known_or_does_not_fit_is_refused(tokens, arrays, sentence):
    with pytest.raises(UserError) as caught:
        placed(tokens, **arrays)
    assert sentence in str(caught.value)


def test_a_model_that_wants_a_bos_makes_windows_without_one_doubtful():
    with pytest.raises(UserError, match="--first-position"):
        placed([[5, 6, 7]], add_bos=True)


@pytest.mark.parametrize(
    ("order", "arrays"),
    [
        (Order(first_position=-1), {}),
        (Order(first_position=0, shuffled=True), {}),
        (Order(first_position=0), {"positions": [[0, 1]]}),
    ],
)
def test_orders_that_exclude_one_another_are_refused(order, arrays):
    with pytest.raises(UserError, match="--first-position"):
        placed([[5, 6]], order, **arrays)


def test_a_mask_of_ones_says_that_repeated_special_tokens_are_text():
    assert placed([[BOS, 5, EOS, EOS]], mask=[[1, 1, 1, 1]]).keep.all()


def test_shuffled_rows_have_no_neighbours():
    tokens = [[5], [BOS], [6], [7]]
    unknown = placed(tokens, Order(shuffled=True))
    assert unknown.positions.tolist() == [[UNKNOWN]] * 4
    assert (position_in_window(unknown.positions) == NOT_KNOWN).all()
    known = placed(tokens, Order(shuffled=True), positions=[[3], [0], [1], [2]])
    assert known.positions.tolist() == [[~3], [~0], [~1], [~2]]
    for found in (unknown, known):
        flat = found.positions.reshape(-1)
        assert (next_tokens(np.arange(4), flat) == -1).all()
        assert found.docs.tolist() == [[0], [1], [2], [3]]


def slow_windows(positions):
    """Which rows a reader takes for one window, by a plain loop over all pairs."""
    rows = range(len(positions))
    return {
        (i, j)
        for i in rows
        for j in rows
        if i < j and positions[i] >= 0 and positions[j] - positions[i] == j - i
    }


def test_windows_that_seem_to_go_on_from_others_are_told_apart():
    """Rows of cut windows [first position, length], in both splits by chance."""
    rng = np.random.default_rng(0)
    for _ in range(40):
        cuts = [(int(rng.integers(0, 4)), int(rng.integers(1, 5))) for _ in range(12)]
        length = max(n for _, n in cuts)
        mask = np.array([[i < n for i in range(length)] for _, n in cuts])
        positions = np.array([[first + i for i in range(length)] for first, _ in cuts])
        tokens = np.full(mask.shape, 5)
        found = placed(tokens, mask=mask, positions=positions, share=0.3)
        window = np.broadcast_to(np.arange(12)[:, None], mask.shape)
        for split in (False, True):
            chosen = found.keep & (found.heldout == split)
            stored, of = found.positions[chosen], window[chosen]
            np.testing.assert_array_equal(position_in_window(stored), positions[chosen])
            assert all(of[i] == of[j] for i, j in slow_windows(stored.tolist()))


def test_the_digest_of_plain_rows_is_that_of_tokens_and_documents():
    """A cache that an earlier version began goes on, unless its positions were others."""
    tokens = np.arange(3, 9, dtype=np.int32).reshape(2, 3)
    plain = rows_of(tokens)
    expected = sha256_bytes(tokens.tobytes() + np.arange(2, dtype=np.int32).tobytes())
    assert _digest(plain, place_rows(plain, tokenizer(), 0.5, IN_ORDER)) == expected
    sliced = place_rows(plain, tokenizer(), 0.5, Order(first_position=1))
    assert _digest(plain, sliced) != expected
    padded = rows_of(tokens, mask=[[1, 1, 0], [1, 1, 1]])
    assert _digest(padded, place_rows(padded, tokenizer(), 0.5, IN_ORDER)) != expected


# Files.


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(random_model(llama_config()), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def width():
    return llama_config().hidden_size


def columns(cache, split="train"):
    count = cache.rows(split)
    return [cache.column(name, split).read(0, count) for name in ("tokens", "positions", "docs")]


def test_masked_rows_are_stored_without_their_padding(tmp_path, model, width, capsys):
    rows, tokens, _ = given(width)
    length = np.random.default_rng(3).integers(1, T + 1, W)
    mask = np.arange(T)[None] < length[:, None]
    tokens[~mask] = PAD
    source = write_npy(tmp_path / "rows", rows, tokens)
    np.save(source / "attention_mask.npy", mask.astype(np.int64))
    assert main(command(source, model, tmp_path / "out", layer=1, heldout_share=0.2)) == 0
    assert f"{int((~mask).sum())} of padding left out" in capsys.readouterr().out
    cache = Cache.open(str(tmp_path / "out"))
    assert verify(cache.url) == []
    window = np.flatnonzero((np.arange(W) + 1) % 5 != 0)  # a fifth is held out
    stored = columns(cache)
    assert stored[0].tolist() == [t for w in window for t in tokens[w, : length[w]]]
    assert stored[1].tolist() == [i for w in window for i in range(length[w])]
    assert stored[2].tolist() == [w for w in window for _ in range(length[w])]
    expected = np.concatenate([rows[w, : length[w]] for w in window])
    np.testing.assert_array_equal(cache.acts(1, "train").read(0, len(expected)), expected)


def test_windows_of_all_lengths_survive_an_export_and_an_import(tmp_path, model, width):
    rows, tokens, docs = given(width)
    tokens[:, 0] = BOS
    tokens[::3, 5] = BOS
    source = write_npy(tmp_path / "rows", rows, tokens, docs)
    assert main(command(source, model, tmp_path / "one", layer=1, heldout_share=0.2)) == 0
    assert main(["cache", "export", str(tmp_path / "one"), f"--out={tmp_path / 'again'}"]) == 0
    again = command(tmp_path / "again", model, tmp_path / "two", layer=1, heldout_share=1e-9)
    assert main(again) == 0
    one, two = (Cache.open(str(tmp_path / name)) for name in ("one", "two"))
    assert (columns(one)[1] == 0).sum() > W * 0.8
    for name, a, b in zip(("tokens", "positions", "docs"), columns(one), columns(two), strict=True):
        np.testing.assert_array_equal(a, b, name)
    assert one.manifest.bos and two.manifest.bos


def test_rows_without_order_are_all_used_and_have_no_neighbours(tmp_path, model, width, capsys):
    rows, tokens, _ = given(width)
    rng = np.random.default_rng(5)
    order = rng.permutation(W * T)
    flat, ids = rows.reshape(-1, width)[order], tokens.reshape(-1)[order]
    source = write_npy(tmp_path / "rows", flat, ids)
    asked = command(source, model, tmp_path / "out", layer=1, heldout_share=0.2)
    refused(capsys, asked)
    assert main([*asked, "--shuffled"]) == 0
    cache = Cache.open(str(tmp_path / "out"))
    count = cache.rows("train")
    assert Source(cache, 1, "train", Mask(1, 0.0)).keep().all()
    assert Source(cache, 1, "train", Mask(1, 1e9)).keep().all()
    stored = columns(cache)
    assert (next_tokens(stored[0], stored[1]) == -1).all()
    snippet = Snippets(cache, "train").text(count // 2)
    assert snippet.startswith("[") and snippet.endswith("]")
    with pytest.raises(UserError, match="positions are not those of windows"):
        WindowTable.of(cache, cache.manifest.sites[0], "train", Mask(1, 0.0))
    # With positions the first ones are masked.
    positions = np.tile(np.arange(T), W)[order]
    np.save(source / "positions.npy", positions)
    refused(capsys, command(source, model, tmp_path / "in_order", layer=1))
    with_positions = command(source, model, tmp_path / "two", layer=1, heldout_share=0.2)
    assert main([*with_positions, "--shuffled"]) == 0
    two = Cache.open(str(tmp_path / "two"))
    kept = Source(two, 1, "train", Mask(1, 0.0)).keep()
    first = np.isin(columns(two)[1], [~0])
    np.testing.assert_array_equal(kept, ~first)
    assert (
        first.sum() == (np.tile(np.arange(T), W)[order][(np.arange(W * T) + 1) % 5 != 0] == 0).sum()
    )


def test_sliced_windows_lose_no_row_to_the_mask_of_first_positions(tmp_path, model, width):
    rows, tokens, _ = given(width)
    source = write_npy(tmp_path / "rows", rows, tokens)
    asked = command(source, model, tmp_path / "out", layer=1, first_position=1)
    assert main(asked) == 0
    cache = Cache.open(str(tmp_path / "out"))
    assert Source(cache, 1, "train", Mask(1, 0.0)).keep().all()
    assert cache.manifest.context_length == T + 1
    with pytest.raises(UserError, match="positions are not those of windows"):
        WindowTable.of(cache, cache.manifest.sites[0], "train", Mask(1, 0.0))


def test_arrow_files_without_a_bos_are_not_guessed_at(tmp_path, model, width, capsys):
    rows, tokens, _ = given(width)
    source = write_arrow(tmp_path / "rows", rows, tokens)
    asked = command(source, model, tmp_path / "out", heldout_share=0.2)
    assert "no BOS token" in refused(capsys, asked)
    assert main([*asked, "--first-position=1"]) == 0
    assert columns(Cache.open(str(tmp_path / "out")))[1].min() == 1


def test_bfloat16_in_npy_is_read(tmp_path, model, width):
    rows, tokens, _ = given(width)
    half = rows.astype(ml_dtypes.bfloat16)
    source = write_npy(tmp_path / "rows", half, tokens)
    found = open_rows(str(source))
    assert found.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found.read(3, 5), half[3:5])
    assert main(command(source, model, tmp_path / "out", layer=1, heldout_share=0.2)) == 0


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"rows": np.zeros((W, T, 4), np.complex64)}, "complex64"),
        ({"rows": np.zeros((W, T, 4), np.uint8)}, "uint8"),
        ({"tokens": np.full((W, T), 2**32 + 5)}, "4294967301"),
        ({"tokens": np.full((W, T), VOCAB)}, f"expected 0 to {VOCAB - 1}"),
    ],
)
def test_types_and_ids_that_are_none_are_refused(tmp_path, model, width, capsys, changed, sentence):
    rows, tokens, _ = given(width)
    source = write_npy(tmp_path / "rows", **({"rows": rows, "tokens": tokens} | changed))
    assert sentence in refused(capsys, command(source, model, tmp_path / "out", layer=1))
    assert not (tmp_path / "out").exists()


def test_other_names_of_arrays_are_known_and_two_for_one_refused(tmp_path, width):
    rows, tokens, _ = given(width)
    positions = np.tile(np.arange(1, T + 1), (W, 1))
    save_file(
        {"rows": rows, "input_ids": tokens, "position_ids": positions},
        tmp_path / "rows.safetensors",
    )
    found = open_rows(str(tmp_path / "rows.safetensors"))
    np.testing.assert_array_equal(found.tokens, tokens)
    np.testing.assert_array_equal(found.positions, positions)
    source = write_npy(tmp_path / "rows", rows, tokens)
    np.save(source / "input_ids.npy", tokens)
    with pytest.raises(UserError, match="tokens and input_ids"):
        open_rows(str(source))


def test_arrow_windows_of_other_lengths_are_refused(tmp_path, width):
    rows, tokens, _ = given(width)
    source = write_arrow(tmp_path / "rows", rows, tokens)
    info = json.loads((source / "dataset_info.json").read_text(encoding="utf-8"))
    for feature in info["features"].values():
        if "shape" in feature:
            feature["shape"] = [T // 2, width]
    (source / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    with pytest.raises(UserError, match="column token_ids"):
        open_rows(str(source))
