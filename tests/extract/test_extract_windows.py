"""Windows and splits against an obvious slow twin."""

import hashlib

import numpy as np
import pytest

from vasae_jax.cache.manifest import SPLITS
from vasae_jax.extract.windows import document_fraction, make_windows
from vasae_jax.utils.errors import UserError

T = 8


def encode(text):
    return [ord(character) % 97 + 1 for character in text]


def documents(count=60, seed=0):
    rng = np.random.default_rng(seed)
    return ["".join(map(chr, rng.integers(97, 123, rng.integers(0, 40)))) for _ in range(count)]


def slow_rows(texts, context, bos, share):
    """(split, token, position, document) of every row, in order."""
    rows = []
    for doc, text in enumerate(texts):
        step = context - (bos is not None)
        fraction = int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) / 2**64
        split = "heldout" if fraction < share else "train"
        ids = encode(text)
        while ids:
            window, ids = ([] if bos is None else [bos]) + ids[:step], ids[step:]
            if len(window) >= 2:
                rows += [(split, token, position, doc) for position, token in enumerate(window)]
    return rows


@pytest.mark.parametrize("bos", [None, 0])
def test_rows_are_those_of_the_slow_twin(bos):
    texts = documents()
    windows = make_windows(texts, encode, T, bos_id=bos, heldout_share=0.2)
    expected = slow_rows(texts, T, bos, 0.2)
    found = [
        ("heldout" if held else "train", int(token), position, int(doc))
        for start, length, doc, held in zip(
            windows.starts, windows.lengths, windows.docs, windows.heldout, strict=False
        )
        for position, token in enumerate(windows.tokens[start : start + length])
    ]
    assert found == expected
    for split in SPLITS:
        mine = [row for row in expected if row[0] == split]
        assert windows.count(split) == (len(mine), len({row[3] for row in mine}))
        assert mine


def test_a_documents_split_depends_on_its_text_alone():
    texts = documents()
    forward, backward = (
        make_windows(t, encode, T, heldout_share=0.3) for t in (texts, texts[::-1])
    )

    def heldout(windows, order):
        return {order[doc] for doc, held in zip(windows.docs, windows.heldout, strict=True) if held}

    assert heldout(forward, texts) == heldout(backward, texts[::-1])
    assert all(document_fraction(text.encode()) < 0.3 for text in heldout(forward, texts))


def test_both_splits_get_a_document_however_small_the_share():
    texts = documents(12)
    few = make_windows(texts, encode, T, heldout_share=1e-9)
    most = make_windows(texts, encode, T, heldout_share=1 - 1e-9)
    assert few.count("heldout")[1] == 1
    assert most.count("train")[1] == 1


def test_equal_documents_share_a_split():
    windows = make_windows(["same text", "other text", "same text"], encode, T, heldout_share=0.5)
    held = {doc: bool(h) for doc, h in zip(windows.docs, windows.heldout, strict=True)}
    assert held[0] == held[2] != held[1]


def test_max_rows_keeps_whole_windows_and_reads_no_further():
    def endless():
        index = 0
        while True:
            yield f"document number {index}"
            index += 1

    windows = make_windows(endless(), encode, T, heldout_share=0.2, max_rows=100)
    assert 100 - T < len(windows.tokens) <= 100
    whole = make_windows(
        (next(g) for g in [endless()] for _ in range(20)), encode, T, heldout_share=0.2
    )
    np.testing.assert_array_equal(windows.tokens, whole.tokens[: len(windows.tokens)])


def test_the_digest_tells_documents_apart():
    digests = {
        make_windows(texts, encode, T, heldout_share=0.5).digest
        for texts in (["ab", "cd", "ef"], ["abc", "d", "ef"], ["cd", "ab", "ef"], ["ab", "cd"])
    }
    assert len(digests) == 4


@pytest.mark.fault
@pytest.mark.parametrize("texts", [[], ["", "a", "b"]])
def test_empty_text_is_refused(texts):
    with pytest.raises(UserError, match="the text is empty"):
        make_windows(texts, encode, T)


@pytest.mark.fault
def test_one_document_cannot_be_split():
    with pytest.raises(UserError, match="expected at least two"):
        make_windows(["only one document", "only one document"], encode, T)


def test_a_limit_below_one_window_is_refused():
    with pytest.raises(UserError, match="max rows is 3; expected room for one window"):
        make_windows(["long enough", "and another"], encode, T, max_rows=3)


def test_a_document_that_cannot_be_tokenised_is_named():
    def encode(text):
        if text == "odd":
            raise UserError("token 'x' has id 9")
        return [1, 2, 3]

    with pytest.raises(UserError, match=r"document 2 \(from 0\): token 'x' has id 9"):
        make_windows(["one", "two", "odd"], encode, 4)
