"""A few words around a row: the same window, one line, the row's own token marked."""

from dataclasses import replace

import numpy as np
import pytest
from cache_fixtures import Rows, append, make_plan, make_rows, make_vocabulary

from vasae_jax.cache import Cache, CacheWriter
from vasae_jax.cache.vocab import Vocab
from vasae_jax.report.summary import Snippets

WORDS = ("ĠSo", "Ġit", "Ġgoes", "Ċ", "Ã", "©", "␣", "Ġ\\", "Ġon", ".")
LENGTHS = (12, 1, 7)


@pytest.fixture(scope="module")
def snippets(tmp_path_factory):
    """Three windows, of 12, 1 and 7 tokens, that go through WORDS over and over."""
    plan = make_plan(d=4, vocab=len(WORDS), layers=(1,))
    rows = sum(LENGTHS)
    positions = np.concatenate([np.arange(length) for length in LENGTHS]).astype(np.int32)
    tokens = (np.arange(rows) % len(WORDS)).astype(np.int32)
    made = Rows(tokens, positions, np.zeros(rows, np.int32), make_rows(plan, rows).acts)
    vocabulary = replace(make_vocabulary(plan), vocab=Vocab("byte_level", WORDS))
    url = str(tmp_path_factory.mktemp("cache") / "cache")
    with CacheWriter(url, plan, vocabulary) as writer:
        append(writer, "train", made)
        writer.finish()
    return Snippets(Cache.open(url), "train")


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (0, r"[ So] it goes\x0a"),  # the window's first row
        (2, r" So it[ goes]\x0a" + "é"),
        (9, r" it goes\x0aé␣ \\ on[.] So it".replace("␣", r"\u2423")),  # eight before
        (11, r"\x0aé␣ \\ on. So[ it]".replace("␣", r"\u2423")),  # the window's last row
        (12, "[ goes]"),  # a window of one row
        (13, r"[\x0a]é\u2423"),
        (19, r"\x0aé\u2423 \\ on[.]"),  # the last row of all
    ],
)
def test_text_ends_with_the_window_and_is_printable(snippets, row, text):
    found = snippets.text(row)
    assert found == text
    assert found.isprintable() and "\n" not in found


def test_bytes_of_a_character_that_the_mark_parts_are_shown_as_bytes(snippets):
    assert r"[\xc3]\xa9" in snippets.text(4)
