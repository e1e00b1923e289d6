"""SAEs of other libraries: read from their files, they compute what the libraries' formulas do."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from foreign_fixtures import (
    F,
    K,
    rows,
    slow,
    weights,
    write_dictionary_learning,
    write_gemma_scope,
    write_sae_lens,
    write_sparsify,
)

from vasae_jax.activations import JumpReLU, TopK
from vasae_jax.interop.libraries import read_foreign
from vasae_jax.sae import encode, reconstruct
from vasae_jax.sites import Site
from vasae_jax.training.run import imported_params
from vasae_jax.utils.errors import UserError

X = rows()


def ours(sae):
    """Dense activations and rows by the code that names and measures."""
    params, x = imported_params(sae), jnp.asarray(X)
    values, ids = (np.asarray(part) for part in encode(params, x, sae.activation, sae.pre_bias))
    z = np.zeros((len(X), F), np.float32)
    np.put_along_axis(z, ids, values, axis=1)
    return z, np.asarray(reconstruct(params, x, sae.activation, sae.pre_bias))


def same(sae, expected):
    for found, wanted in zip(ours(sae), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-4)


@pytest.mark.parametrize(
    ("architecture", "config", "formula"),
    [
        ("standard", {}, {}),
        ("standard", {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}, {"k": K}),
        ("topk", {}, {"k": K}),
        ("topk", {"rescale_acts_by_decoder_norm": True}, {"k": K, "rescale": True}),
        ("jumprelu", {}, {"threshold": weights(norms=True)["threshold"]}),
    ],
)
@pytest.mark.parametrize("taken", [False, True])
def test_sae_lens(tmp_path, architecture, config, formula, taken):
    w = weights(norms=True)
    write_sae_lens(tmp_path, w, architecture, apply_b_dec_to_input=taken, **config)
    sae = read_foreign(str(tmp_path))
    assert (sae.library, sae.site, sae.model) == ("sae_lens", Site(3), "tiny")
    same(sae, slow(w, X, taken=float(taken), **formula))


def test_a_place_before_a_block_is_the_output_of_the_one_before_it(tmp_path):
    named = {"metadata": {"hook_name": "blocks.3.hook_resid_pre"}}
    assert read_foreign(str(write_sae_lens(tmp_path, weights(), "topk", **named))).site == Site(2)


@pytest.mark.parametrize("name", ["layers.7", "h.7"])
def test_sparsify(tmp_path, name):
    sae = read_foreign(str(write_sparsify(tmp_path / name, weights(norms=True))))
    assert (sae.library, sae.site, sae.activation) == ("sparsify", Site(7), TopK(K))
    same(sae, slow(weights(norms=True), X, k=K, taken=1.0))


@pytest.mark.parametrize(
    ("kind", "formula"),
    [
        ("AutoEncoderTopK", {"k": K, "taken": 1.0}),
        ("BatchTopKSAE", {"threshold": np.float32(0.7), "taken": 1.0}),
        ("MatryoshkaBatchTopKSAE", {"threshold": np.float32(0.7), "taken": 1.0}),
        ("JumpReluAutoEncoder", {"threshold": weights(norms=True)["threshold"]}),
        ("AutoEncoder", {"taken": 1.0, "rescale": True}),
        ("AutoEncoderNew", {}),
    ],
)
def test_dictionary_learning(tmp_path, kind, formula):
    pytest.importorskip("torch")
    write_dictionary_learning(tmp_path, weights(norms=True), kind)
    sae = read_foreign(str(tmp_path))
    assert (sae.library, sae.site, sae.model) == ("dictionary_learning", Site(3), "tiny")
    same(sae, slow(weights(norms=True), X, **formula))


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_gemma_scope(tmp_path, kind):
    w = weights(norms=True)
    sae = read_foreign(str(write_gemma_scope(tmp_path, w, kind)))
    assert (sae.library, sae.site, sae.activation) == ("gemma_scope", Site(3), JumpReLU())
    same(sae, slow(w, X, threshold=w["threshold"]))


def test_a_folder_of_a_source_can_be_named(tmp_path):
    write_gemma_scope(tmp_path, weights())
    folder = "layer_3/width_48/average_l0_9"
    assert read_foreign(str(tmp_path), "gemma_scope", folder).site == Site(3)


def lens(tmp_path, **config):
    return write_sae_lens(tmp_path, weights(), "topk", **config)


def broken(tmp_path, name, value):
    return write_gemma_scope(tmp_path, weights() | {name: value})


REFUSED = [
    (
        lambda t: write_sae_lens(t, weights(), "gated"),
        r"architecture 'gated'; expected one of standard",
    ),
    (lambda t: lens(t, normalize_activations="layer_norm"), "normalize_activations 'layer_norm'"),
    (lambda t: lens(t, k=0), "k 0; expected a whole number from 1 to 48"),
    (
        lambda t: lens(t, metadata={"hook_name": "blocks.3.hook_mlp_out"}),
        "reads blocks.3.hook_mlp_out.*layers.3.mlp_out",
    ),
    (lambda t: write_sae_lens(t, weights(), "standard", activation_fn="tanh"), "'tanh'"),
    (lambda t: write_sparsify(t, weights(), activation="groupmax"), "'groupmax'; expected topk"),
    (lambda t: write_sparsify(t, weights(), transcode=True), "transcode True; expected false"),
    (lambda t: broken(t, "threshold", np.zeros(3)), r"threshold of shape \(3,\)"),
    (lambda t: broken(t, "b_enc", np.zeros(3)), r"b_enc of shape \(3,\); expected \(48,\)"),
    (lambda t: broken(t, "W_dec", np.full((F, 16), np.nan)), "W_dec that is not finite"),
    (
        lambda t: write_gemma_scope(t, weights(), place="transcoder/layer_3"),
        "is of kind transcoder; expected one of a residual stream",
    ),
    (lambda t: t, "holds no SAE that is known: found nothing"),
    (lambda t: t / "away", "away is not a folder"),
]


@pytest.mark.parametrize(("make", "sentence"), REFUSED)
def test_what_cannot_be_kept_exactly_is_refused_in_one_sentence(tmp_path, make, sentence):
    with pytest.raises(UserError, match=sentence):
        read_foreign(str(make(tmp_path)))


@pytest.mark.parametrize(
    ("kind", "trainer", "sentence"),
    [
        ("AutoEncoderTopK", {"dict_class": "GatedAutoEncoder"}, "'GatedAutoEncoder'; expected one"),
        ("AutoEncoderTopK", {"submodule_name": "mlp_layer_3"}, "reads mlp_layer_3; expected"),
    ],
)
def test_of_dictionary_learning_too(tmp_path, kind, trainer, sentence):
    pytest.importorskip("torch")
    write_dictionary_learning(tmp_path, weights(), kind, **trainer)
    with pytest.raises(UserError, match=sentence):
        read_foreign(str(tmp_path))


def test_a_threshold_that_was_never_estimated_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    write_dictionary_learning(tmp_path, weights(), "BatchTopKSAE")
    state = torch.load(tmp_path / "ae.pt") | {"threshold": torch.tensor(-1.0)}
    torch.save(state, tmp_path / "ae.pt")
    with pytest.raises(UserError, match="has threshold -1, the mark of one that was never"):
        read_foreign(str(tmp_path))


def test_files_of_two_libraries_ask_which(tmp_path):
    write_sparsify(write_sae_lens(tmp_path, weights(), "topk"), weights())
    with pytest.raises(UserError, match="files of sae_lens and sparsify; expected --from"):
        read_foreign(str(tmp_path))
    with pytest.raises(UserError, match="'torch' is not a library; expected one of auto, sae_lens"):
        read_foreign(str(tmp_path), "torch")


@pytest.mark.parametrize("name", ["cfg.json", "sae_weights.safetensors"])
def test_a_damaged_file_is_named(tmp_path, name):
    (lens(tmp_path) / name).write_bytes(b"\x93")
    with pytest.raises(UserError, match=name):
        read_foreign(str(tmp_path), "sae_lens")


def test_a_pickle_that_is_more_than_weights_is_not_run(tmp_path):
    torch = pytest.importorskip("torch")
    write_dictionary_learning(tmp_path, weights(), "AutoEncoderTopK")
    torch.save({"ran": json.JSONDecoder}, tmp_path / "ae.pt")
    with pytest.raises(UserError, match=r"ae\.pt holds more than weights.*json\.decoder"):
        read_foreign(str(tmp_path))
