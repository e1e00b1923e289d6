"""The feature most active at each token of a sentence, against the model and SAE in float64."""

from dataclasses import replace

import lm_fixtures as fx
import numpy as np
import patching_fixtures as patching
import pytest
import reference

from vasae_jax.evaluation.sentence import sentence_cells, strongest
from vasae_jax.lm import load_lm
from vasae_jax.utils.errors import UserError

TEXT = "an iterable of values"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return patching.make_home(tmp_path_factory.mktemp("home"), fx.llama_config())


def test_cells_equal_torch_and_a_plain_sae(home):
    model = load_lm(str(home.directory))
    params = patching.random_params(48, features=40)
    run = patching.make_run(home, params, k=5)
    tokens, cells = sentence_cells([run], model, TEXT)
    assert tokens.tolist() == model.tokenizer.encode(TEXT)
    rows = fx.torch_residuals(home.torch_model, tokens[None, :])[patching.LAYER, 0]
    _, z, _ = reference.forward(params, rows.astype(np.float64), 5, 0.0)
    assert cells["raw"][0].feature[0] == -1  # the first position is masked
    for position in range(1, len(tokens)):
        for mode, shown in (("raw", z), ("centred", z - z[1:].mean(axis=0))):
            found = cells[mode][0]
            best = shown[position].argmax()
            assert found.feature[position] == best
            assert found.value[position] == pytest.approx(shown[position, best], rel=1e-3)
            assert found.activation[position] == pytest.approx(z[position, best], rel=1e-3)


def test_a_feature_that_fires_everywhere_is_hidden_by_its_mean():
    z = np.zeros((4, 3), np.float32)
    z[:, 0], z[2, 1] = 9, 5
    z[3] = 0
    counts = np.array([False, True, True, True])
    assert strongest(z, counts, "raw").feature.tolist() == [-1, 0, 0, -1]
    assert strongest(z, counts, "centred").feature.tolist() == [-1, 0, 1, -1]


def test_a_bos_of_the_cache_leads_the_window_and_is_not_shown(home):
    model = load_lm(str(home.directory))
    run = patching.make_run(home, patching.random_params(48), k=5)
    plain, cells = sentence_cells([run], model, TEXT)
    manifest = replace(run.cache.manifest, bos=True)
    cache = type("Led", (), {"manifest": manifest})()
    tokens, led = sentence_cells([replace(run, cache=cache)], model, TEXT)
    np.testing.assert_array_equal(tokens, plain)
    assert led["raw"][0].feature[0] >= 0 and cells["raw"][0].feature[0] == -1


@pytest.mark.parametrize("text", ["", "word " * 100])
def test_no_text_and_too_much_text_are_refused(home, text):
    model = load_lm(str(home.directory))
    run = patching.make_run(home, patching.random_params(48), k=5)
    with pytest.raises(UserError, match="tokens; expected 1 to 64"):
        sentence_cells([run], model, text)
