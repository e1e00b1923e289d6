"""The libraries themselves: what they save is read, and what they compute is computed.

They conflict with the suite's own packages; .ci/run makes an environment for this file and for
tests/dictionary/test_dictionary_export.py, in which nothing is skipped.
"""

import contextlib
import json

import jax.numpy as jnp
import numpy as np
import pytest
from foreign_fixtures import D, F, K, rows, weights

from vasae_jax.interop.libraries import read_foreign
from vasae_jax.sae import encode, reconstruct
from vasae_jax.sites import Site
from vasae_jax.training.run import imported_params

torch = pytest.importorskip("torch")
X = rows()


def same(sae, z, x_hat):
    """Our activations and rows against the library's own."""
    params, x = imported_params(sae), jnp.asarray(X)
    values, ids = (np.asarray(part) for part in encode(params, x, sae.activation, sae.pre_bias))
    ours = np.zeros((len(X), F), np.float32)
    np.put_along_axis(ours, ids, values, axis=1)
    assert (z > 0).any() and (z == 0).any()
    np.testing.assert_allclose(ours, z, atol=2e-4)
    found = reconstruct(params, x, sae.activation, sae.pre_bias)
    np.testing.assert_allclose(np.asarray(found), x_hat, atol=1e-3)


def set_weights(module, names, w):
    """Give a module's parameters, ours by theirs; {"encoder.weight": "W_enc.T"} and so on."""
    state = module.state_dict()
    for theirs, ours in names.items():
        value = w[ours.removesuffix(".T")]
        state[theirs] = torch.from_numpy(np.array(value.T if ours.endswith(".T") else value))
    module.load_state_dict(state)


SAME_NAMES = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
LINEAR = {"encoder.weight": "W_enc.T", "encoder.bias": "b_enc", "decoder.weight": "W_dec.T"}


@pytest.mark.parametrize("kind", ["StandardSAE", "TopKSAE", "TopKSAE rescaled", "JumpReLUSAE"])
@pytest.mark.parametrize("taken", [False, True])
def test_sae_lens(tmp_path, kind, taken):
    saes = pytest.importorskip("sae_lens.saes")
    name, *rescaled = kind.split()
    extra = {"k": K, "rescale_acts_by_decoder_norm": bool(rescaled)} if name == "TopKSAE" else {}
    config = getattr(saes, f"{name}Config")(d_in=D, d_sae=F, apply_b_dec_to_input=taken, **extra)
    config.metadata.hook_name, config.metadata.model_name = "blocks.3.hook_resid_post", "tiny"
    theirs = getattr(saes, name)(config)
    more = {"threshold": "threshold"} if name == "JumpReLUSAE" else {}
    set_weights(theirs, SAME_NAMES | more, weights(norms=True))
    theirs.save_model(tmp_path)
    sae = read_foreign(str(tmp_path))
    assert (sae.site, sae.model) == (Site(3), "tiny")
    with torch.no_grad():
        z = theirs.encode(torch.from_numpy(X))
        same(sae, z.numpy(), theirs.decode(z).numpy())


@pytest.mark.parametrize("kind", ["BatchTopK", "MatryoshkaBatchTopK"])
def test_sae_lens_batch_topk_as_it_is_saved_for_use(tmp_path, kind):
    lens, saes = pytest.importorskip("sae_lens"), pytest.importorskip("sae_lens.saes")
    extra = {"matryoshka_widths": [F // 2, F]} if kind == "MatryoshkaBatchTopK" else {}
    config = getattr(saes, f"{kind}TrainingSAEConfig")(d_in=D, d_sae=F, k=float(K), **extra)
    training = getattr(saes, f"{kind}TrainingSAE")(config)
    set_weights(training, SAME_NAMES, weights(norms=True))
    training.topk_threshold = torch.tensor(0.9, dtype=torch.double)
    training.save_inference_model(tmp_path)
    theirs = lens.SAE.load_from_disk(tmp_path)
    with torch.no_grad():
        z = theirs.encode(torch.from_numpy(X))
        same(read_foreign(str(tmp_path)), z.numpy(), theirs.decode(z).numpy())


def test_sparsify(tmp_path):
    sparsify = pytest.importorskip("sparsify")
    config = sparsify.SparseCoderConfig(num_latents=F, k=K)
    theirs = sparsify.SparseCoder(D, config)
    names = {"encoder.weight": "W_enc.T", "encoder.bias": "b_enc"}
    set_weights(theirs, names | {"W_dec": "W_dec", "b_dec": "b_dec"}, weights(norms=True))
    theirs.save_to_disk(tmp_path / "layers.7")
    sae = read_foreign(str(tmp_path / "layers.7"))
    assert sae.site == Site(7)
    with torch.no_grad():
        values, ids, _ = theirs.encode(torch.from_numpy(X))
        x_hat = theirs.decode(values, ids).numpy()
    z = np.zeros((len(X), F), np.float32)
    np.put_along_axis(z, ids.numpy(), values.numpy(), axis=1)
    same(sae, z, x_hat)


@pytest.mark.parametrize(
    ("kind", "made", "names"),
    [
        ("AutoEncoderTopK", (D, F, K), LINEAR | {"b_dec": "b_dec"}),
        ("BatchTopKSAE", (D, F, K), LINEAR | {"b_dec": "b_dec"}),
        ("MatryoshkaBatchTopKSAE", (D, F, K, [F // 2, F // 2]), SAME_NAMES),
        ("JumpReluAutoEncoder", (D, F), SAME_NAMES | {"threshold": "threshold"}),
        ("AutoEncoder", (D, F), LINEAR | {"bias": "b_dec"}),
        ("AutoEncoderNew", (D, F), LINEAR | {"decoder.bias": "b_dec"}),
    ],
)
def test_dictionary_learning(tmp_path, kind, made, names):
    library = pytest.importorskip("dictionary_learning")
    utils = pytest.importorskip("dictionary_learning.utils")
    classes = {**vars(library.dictionary), **vars(utils)}
    theirs = classes[kind](*made)
    set_weights(theirs, names, weights(norms=True))
    if "TopKSAE" in kind:
        theirs.threshold = torch.tensor(0.7)
    torch.save(theirs.state_dict(), tmp_path / "ae.pt")
    trainer = {"dict_class": kind, "k": K, "layer": 3, "submodule_name": "resid_post_layer_3"}
    (tmp_path / "config.json").write_text(json.dumps({"trainer": trainer}), encoding="utf-8")
    with contextlib.redirect_stdout(None):
        loaded, _ = utils.load_dictionary(str(tmp_path), "cpu")
    with torch.no_grad():
        z = loaded.encode(torch.from_numpy(X))
        same(read_foreign(str(tmp_path)), z.numpy(), loaded.decode(z).numpy())


@pytest.mark.parametrize("release", ["gemma_2", "gemma_3"])
def test_gemma_scope_as_sae_lens_loads_it(tmp_path, monkeypatch, release):
    """SAELens' loaders of Gemma Scope's repositories, the download replaced by files here."""
    from foreign_fixtures import write_gemma_scope

    loaders = pytest.importorskip("sae_lens.loading.pretrained_sae_loaders")
    saes = pytest.importorskip("sae_lens.saes")
    kind, place = ("npz", "layer_3/width_16k/average_l0_9")
    if release == "gemma_3":
        kind, place = ("safetensors", "resid_post/layer_3_width_16k_l0_small")
    folder = write_gemma_scope(tmp_path, weights(norms=True), kind, place)
    monkeypatch.setattr(loaders, "hf_hub_download", local(tmp_path, loaders.EntryNotFoundError))
    shapes = {"w_enc": (D, F), "w_dec": (F, D)}
    monkeypatch.setattr(loaders, "get_safetensors_tensor_shapes", lambda *a, **k: shapes)
    load = loaders.NAMED_PRETRAINED_SAE_LOADERS[release]
    repository = {"gemma_2": "google/gemma-scope-2b-pt-res", "gemma_3": "google/gemma-scope-2-1b"}
    _, state, _ = load(repository[release], place, device="cpu")
    theirs = saes.JumpReLUSAE(saes.JumpReLUSAEConfig(d_in=D, d_sae=F, apply_b_dec_to_input=False))
    theirs.load_state_dict(state)
    sae = read_foreign(str(folder))
    assert sae.site == Site(3)
    with torch.no_grad():
        z = theirs.encode(torch.from_numpy(X))
        same(sae, z.numpy(), theirs.decode(z).numpy())


def local(root, missing):
    """``hf_hub_download`` of a repository that lies at ``root``."""

    def download(repo_id=None, filename=None, subfolder="", **_):
        path = root / subfolder / filename
        if not path.is_file():
            raise missing("not there")
        return str(path)

    return download
