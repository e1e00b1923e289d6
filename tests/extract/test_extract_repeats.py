"""Held-out windows that repeat training are left out when a cache is made."""

import numpy as np
import pytest
from lm_fixtures import gpt2_config, random_model, save_model

from vasae_jax.cache import Cache, overlap
from vasae_jax.cache.overlap import RUN
from vasae_jax.extract import Settings, extract
from vasae_jax.extract.repeats import without_repeats
from vasae_jax.extract.windows import document_fraction, make_windows
from vasae_jax.lm import load_lm
from vasae_jax.utils.errors import UserError

T = 48


def encode(text):
    return [ord(character) for character in text]


def text_of(heldout, length, start="", seed=0):
    """A text on the given side of the split at 0.5 that begins with ``start``."""
    rng = np.random.default_rng(seed)
    while True:
        text = start + "".join(map(chr, rng.integers(97, 123, length - len(start))))
        if (document_fraction(text.encode()) < 0.5) == heldout:
            return text


def windows_of(texts, bos_id):
    return make_windows(texts, encode, T, bos_id=bos_id, heldout_share=0.5)


@pytest.mark.fault
@pytest.mark.parametrize("bos_id", [None, 3])
def test_windows_with_a_run_that_training_has_are_left_out(bos_id, capsys):
    """The run of 64 tokens ends in the second window of 48, so the third and fourth stay."""
    shared = text_of(True, RUN)
    own = text_of(True, 150, seed=1)
    texts = [text_of(False, 100, shared), text_of(True, 4 * T, shared, 2), own]
    windows = windows_of(texts, bos_id)
    kept = without_repeats(windows)
    doc, start = kept.docs.tolist(), windows.starts
    assert doc.count(0) == windows.docs.tolist().count(0)
    assert doc.count(1) == windows.docs.tolist().count(1) - 2
    assert doc.count(2) == windows.docs.tolist().count(2)
    left_out = np.flatnonzero(windows.docs == 1)[:2]
    rows = np.r_[: start[left_out[0]], start[left_out[1] + 1] : start[-1]]
    np.testing.assert_array_equal(kept.tokens, windows.tokens[rows])
    assert kept.starts[-1] == len(kept.tokens)
    assert f"left out: {2 * T} held-out rows" in capsys.readouterr().err


def test_a_text_without_repeats_stays_as_it_is():
    windows = windows_of([text_of(False, 100), text_of(True, 100, seed=3)], None)
    assert without_repeats(windows) is windows


def test_a_text_that_only_repeats_itself_is_refused():
    shared = text_of(True, 2 * T)
    windows = windows_of([text_of(False, 2 * T + 9, shared), shared], None)
    with pytest.raises(UserError, match="repeats itself"):
        without_repeats(windows)


def test_a_cache_has_no_overlap(tmp_path):
    directory = tmp_path / "model"
    directory.mkdir()
    save_model(random_model(gpt2_config()), directory)
    shared = "All the world's a stage, and all the men and women merely players. " * 3
    texts = [text_of(False, 300, shared, 4), text_of(True, 400, shared, 5), text_of(True, 90)]
    settings = Settings(layers=(0,), context_length=16, heldout_share=0.5)
    extract(load_lm(directory), texts, str(tmp_path / "cache"), settings, source="made up")
    cache = Cache.open(str(tmp_path / "cache"))
    assert overlap(cache).repeated == 0
    assert f"repeats of {RUN} tokens left out" in cache.manifest.computed
