"""Settings of other libraries with wrong values: an SAE or one sentence, never another error."""

import json

import pytest
from foreign_fixtures import (
    weights,
    write_dictionary_learning,
    write_sae_lens,
    write_sparsify,
)

from vasae_jax.interop.libraries import read_foreign
from vasae_jax.utils.errors import UserError

WRONG = [None, True, -1, 0, 1.5, 10**30, "", "x", "blocks.x.hook", [], [1], {}, {"k": [1]}]


def outcomes(folder, file, changed):
    """Reads ``folder`` with each wrong value in the place of each setting of ``file``."""
    original = json.loads((folder / file).read_text(encoding="utf-8"))
    refused = 0
    for key, value in changed(original):
        (folder / file).write_text(json.dumps(value), encoding="utf-8")
        try:
            found = read_foreign(str(folder))
        except UserError as error:
            assert "\n" not in str(error), key
            refused += 1
        else:
            assert 1 <= found.k <= len(found.W_dec), key
            assert found.site is None or found.site.layer >= 0, key
            assert found.model is None or isinstance(found.model, str), key
    return refused


def top_level(original):
    for key in original:
        for value in WRONG:
            yield (key, value), {**original, key: value}


def of_trainer(original):
    for key in original["trainer"]:
        for value in WRONG:
            yield (key, value), {"trainer": {**original["trainer"], key: value}}
    for value in WRONG:
        yield ("trainer", value), {"trainer": value}


def of_metadata(original):
    for key in ("hook_name", "model_name"):
        for value in WRONG:
            yield (key, value), {**original, "metadata": {key: value}}
    for value in WRONG:
        before_6 = {"architecture": "standard", "activation_fn": "topk", "k": None}
        yield ("kwargs", value), {**original, **before_6, "activation_fn_kwargs": value}


@pytest.mark.parametrize("changed", [top_level, of_metadata])
def test_sae_lens(tmp_path, changed):
    assert outcomes(write_sae_lens(tmp_path, weights(), "topk"), "cfg.json", changed) > 10


def test_sparsify(tmp_path):
    assert outcomes(write_sparsify(tmp_path, weights()), "cfg.json", top_level) > 10


def test_dictionary_learning(tmp_path):
    pytest.importorskip("torch")
    folder = write_dictionary_learning(tmp_path, weights(), "AutoEncoderTopK")
    assert outcomes(folder, "config.json", of_trainer) > 10
