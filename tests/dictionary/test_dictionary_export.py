"""Other libraries' layouts: the same reconstruction, by their formulas and by themselves."""

import json

import dictionary_fixtures
import numpy as np
import pytest
from dictionary_fixtures import D, K, dictionary
from safetensors.numpy import load_file

from vasae_jax.dictionary.claims import LAYER_CLAIM
from vasae_jax.interop.libraries import LAYOUTS, export_layout
from vasae_jax.utils.errors import UserError

X = np.random.default_rng(1).normal(size=(50, D)).astype(np.float32) * 3
PRE_BIASES = [0.0, 0.5, 1.0]


def reconstruct(x, W_enc, b_enc, W_dec, b_dec, k, taken):
    """x_hat in float64 of a top-k SAE that encodes x - taken * b_dec."""
    W_enc, b_enc, W_dec, b_dec = (a.astype(np.float64) for a in (W_enc, b_enc, W_dec, b_dec))
    z = np.maximum((x - taken * b_dec) @ W_enc + b_enc, 0)
    z[z < np.sort(z, axis=1)[:, [-k]]] = 0
    return z @ W_dec + b_dec


def ours(pre_bias):
    d = dictionary(pre_bias)
    return reconstruct(X, d.W_enc, d.b_enc, d.W_dec, d.b_dec, d.k, pre_bias)


@pytest.mark.parametrize("pre_bias", PRE_BIASES)
def test_sae_lens_layout_by_its_formula(tmp_path, pre_bias):
    export_layout(dictionary(pre_bias), "sae_lens", tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text(encoding="utf-8"))
    arrays = load_file(tmp_path / "sae_weights.safetensors")
    found = reconstruct(X, **arrays, k=config["k"], taken=float(config["apply_b_dec_to_input"]))
    np.testing.assert_allclose(found, ours(pre_bias), atol=1e-5)
    assert config["metadata"]["hook_name"] == "blocks.3.hook_resid_post"


@pytest.mark.parametrize("pre_bias", PRE_BIASES)
def test_sparsify_layout_by_its_formula(tmp_path, pre_bias):
    export_layout(dictionary(pre_bias), "sparsify", tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text(encoding="utf-8"))
    arrays = load_file(tmp_path / "sae.safetensors")
    encoder = (arrays["encoder.weight"].T, arrays["encoder.bias"])
    found = reconstruct(X, *encoder, arrays["W_dec"], arrays["b_dec"], config["k"], 1.0)
    np.testing.assert_allclose(found, ours(pre_bias), atol=1e-5)


@pytest.mark.parametrize("pre_bias", PRE_BIASES)
def test_dictionary_learning_layout_by_its_formula(tmp_path, pre_bias):
    torch = pytest.importorskip("torch")
    export_layout(dictionary(pre_bias), "dictionary_learning", tmp_path)
    state = {name: value.numpy() for name, value in torch.load(tmp_path / "ae.pt").items()}
    encoder = (state["encoder.weight"].T, state["encoder.bias"])
    decoder = (state["decoder.weight"].T, state["b_dec"])
    found = reconstruct(X, *encoder, *decoder, int(state["k"]), 1.0)
    np.testing.assert_allclose(found, ours(pre_bias), atol=1e-5)


@pytest.mark.parametrize("pre_bias", PRE_BIASES)
def test_sae_lens_itself(tmp_path, pre_bias):
    sae_lens, torch = pytest.importorskip("sae_lens"), pytest.importorskip("torch")
    export_layout(dictionary(pre_bias), "sae_lens", tmp_path)
    sae = sae_lens.SAE.load_from_disk(tmp_path)
    found = sae(torch.from_numpy(X)).detach().numpy()
    np.testing.assert_allclose(found, ours(pre_bias), atol=1e-4)
    assert sae.cfg.metadata.hook_name == "blocks.3.hook_resid_post"
    assert sae.cfg.metadata.layer_names["verdict"] == naming()["verdict"]


@pytest.mark.parametrize("pre_bias", PRE_BIASES)
def test_sparsify_itself(tmp_path, pre_bias):
    sparsify, torch = pytest.importorskip("sparsify"), pytest.importorskip("torch")
    export_layout(dictionary(pre_bias), "sparsify", tmp_path)
    found = sparsify.SparseCoder.load_from_disk(tmp_path)(torch.from_numpy(X)).sae_out
    np.testing.assert_allclose(found.detach().numpy(), ours(pre_bias), atol=1e-4)


@pytest.mark.parametrize("pre_bias", PRE_BIASES)
def test_dictionary_learning_itself(tmp_path, pre_bias):
    module = pytest.importorskip("dictionary_learning.trainers.top_k")
    torch = pytest.importorskip("torch")
    export_layout(dictionary(pre_bias), "dictionary_learning", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["trainer"]
    loaded = getattr(module, config["dict_class"]).from_pretrained(tmp_path / "ae.pt", k=K)
    utils = pytest.importorskip("dictionary_learning.utils")
    assert utils.load_dictionary(str(tmp_path), "cpu")[1]["layer_names"] == naming()
    found = loaded(torch.from_numpy(X)).detach().numpy()
    np.testing.assert_allclose(found, ours(pre_bias), atol=1e-4)


def naming():
    """First tested layer names as a layout's config has them, feature by feature."""
    words = {1: "holds", 2: "in part", 0: "untested", -1: "does not hold"}
    d = dictionary()
    features = range(d.d_sae)

    def tested(f, figure):
        return round(float(figure), 4) if d.layer_verdict[f, 0] else None

    return {
        "claim": LAYER_CLAIM,
        "name": [
            d.tokens[int(d.layer_token_ids[f, 0])][1] if d.layer_verdict[f, 0] else None
            for f in features
        ],
        "relation": ["before" if d.layer_relation[f] else "at" for f in features],
        "hold": [tested(f, d.layer_hold[f, 0]) for f in features],
        "precision": [tested(f, d.layer_rows[f, 0] / d.layer_text_rows[f, 0]) for f in features],
        "recall": [tested(f, d.layer_rows[f, 0] / d.fired_rows[f]) for f in features],
        "verdict": [words[int(d.verdict[f])] for f in features],
        "hold_together": [round(float(d.hold[f]), 4) for f in features],
        "verdict_together": [words[int(d.verdict_together[f])] for f in features],
    }


@pytest.mark.parametrize(
    ("layout", "file", "place"),
    [
        ("sae_lens", "cfg.json", ("metadata",)),
        ("dictionary_learning", "config.json", ()),
    ],
)
def test_layouts_with_room_for_it_have_layer_names_and_verdicts(tmp_path, layout, file, place):
    if layout == "dictionary_learning":
        pytest.importorskip("torch")
    export_layout(dictionary(), layout, tmp_path)
    config = json.loads((tmp_path / file).read_text(encoding="utf-8"))
    for key in place:
        config = config[key]
    assert config["layer_names"] == naming()


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_existing_files_are_kept_unless_asked(tmp_path, layout):
    def dictionary(seed=0):
        return dictionary_fixtures.dictionary(seed=seed, thresholds=layout == "gemma_scope")

    first = export_layout(dictionary(), layout, tmp_path)
    before = [path.read_bytes() for path in first]
    with pytest.raises(UserError, match="exists already"):
        export_layout(dictionary(seed=1), layout, tmp_path)
    assert [path.read_bytes() for path in first] == before
    export_layout(dictionary(seed=1), layout, tmp_path, overwrite=True)
    assert [path.read_bytes() for path in first] != before


def test_an_unknown_layout_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(UserError, match="'keras' is not a layout; expected one of sae_lens"):
        export_layout(dictionary(), "keras", tmp_path)
