"""Token strings become bytes, and bytes a printable form that nothing else shares."""

import itertools

import pytest

from vasae_jax.cache.vocab import Vocab, printable
from vasae_jax.utils.errors import UserError


def test_every_single_byte_and_every_pair_of_bytes_prints_differently():
    inputs = [bytes([a]) for a in range(256)]
    inputs += [bytes(pair) for pair in itertools.product(range(256), repeat=2)]
    forms = [printable(data) for data in inputs]
    assert len(set(forms)) == len(inputs)
    assert all(form.isprintable() and " " not in form for form in forms)


def test_texts_that_look_like_escapes_do_not_share_a_form_with_what_they_look_like():
    texts = [
        "\n",
        r"\n",
        r"\x0a",
        "\\",
        r"\\",
        " ",
        "␣",
        r"\u2423",
        "\u00a0",
        r"\u00a0",
        "\u0080",
        "\u200b",
        "\U000e0001",
        "",
        r"\(empty)",
    ]
    inputs = [text.encode() for text in texts]
    inputs += [
        b"\x80",
        b"\xc2",
        b"\xe2\x90",
        "é".encode()[:1],
        b"\xed\xa0\x80",
        "日本".encode()[:4],
        "日".encode(),
    ]
    forms = [printable(data) for data in inputs]
    assert len(set(forms)) == len(inputs)
    assert all(form.isprintable() for form in forms)


@pytest.mark.parametrize(
    ("kind", "raw", "data", "shown"),
    [
        ("byte_level", "Ġthe", b" the", "␣the"),
        ("byte_level", "Ċ", b"\n", r"\x0a"),
        ("byte_level", "Ã©", "é".encode(), "é"),
        ("byte_level", "Ã", b"\xc3", r"\xc3"),
        ("byte_level", "<|endoftext|>", b"<|endoftext|>", "<|endoftext|>"),
        ("byte_level", "<｜bos▁1｜>", "<｜bos▁1｜>".encode(), "<｜bos▁1｜>"),
        ("byte_level", "\\", b"\\", r"\\"),
        ("sentencepiece", "▁the", b" the", "␣the"),
        ("sentencepiece", "<0x0A>", b"\n", r"\x0a"),
        ("sentencepiece", "<0xE2>", b"\xe2", r"\xe2"),
        ("sentencepiece", "<s>", b"<s>", "<s>"),
        ("plain", "Ġthe", "Ġthe".encode(), "Ġthe"),
    ],
)
def test_a_piece_becomes_its_bytes_and_its_form(kind, raw, data, shown):
    vocab = Vocab(kind, (raw,))
    assert vocab.token_bytes(0) == data
    assert vocab.display(0) == shown


def test_the_byte_level_alphabet_covers_every_byte_once():
    alphabet = [chr(c) for c in range(0x144) if chr(c) in _alphabet()]
    vocab = Vocab("byte_level", tuple(alphabet))
    found = sorted(vocab.token_bytes(i) for i in range(len(vocab)))
    assert found == [bytes([b]) for b in range(256)]


def test_json_round_trip_and_its_refusals():
    vocab = Vocab("plain", ("a", "b"))
    assert Vocab.from_json(vocab.to_json()) == vocab
    no_list, mixed = {"kind": "plain"}, {"kind": "plain", "raw": ["a", 3]}
    for wrong in ([], no_list, mixed, {"kind": "bytes", "raw": []}):
        with pytest.raises(UserError, match="expected"):
            Vocab.from_json(wrong)


def _alphabet():
    """The alphabet as GPT-2 states it: three printable ranges, the other bytes from U+0100 up."""
    spans = [("!", "~"), ("¡", "¬"), ("®", "ÿ")]
    own = [c for first, last in spans for c in range(ord(first), ord(last) + 1)]
    return {chr(c) for c in own} | {chr(0x100 + n) for n in range(256 - len(own))}
