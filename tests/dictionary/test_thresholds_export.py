"""Layouts of a dictionary whose thresholds decide: the same activations and rows there."""

import json
import os

import numpy as np
import pytest
from dictionary_fixtures import D, F, dictionary

import vasae_jax as vj
from vasae_jax.activations import JumpReLU
from vasae_jax.dictionary.files import write_dictionary
from vasae_jax.interop.libraries import export_layout, read_foreign
from vasae_jax.utils.errors import UserError

X = np.random.default_rng(1).normal(size=(50, D)).astype(np.float32) * 3
PRE_BIASES = [0.0, 0.5, 1.0]


def slow(pre_bias):
    """Activations and rows in float64 by the dictionary's formula."""
    d = dictionary(pre_bias, thresholds=True)
    pre = (X - pre_bias * d.b_dec.astype(np.float64)) @ d.W_enc.astype(np.float64) + d.b_enc
    z = np.where(pre > np.maximum(d.threshold, 0), pre, 0)
    return z, z @ d.W_dec.astype(np.float64) + d.b_dec


@pytest.mark.parametrize("layout", ["sae_lens", "dictionary_learning", "gemma_scope"])
@pytest.mark.parametrize("pre_bias", PRE_BIASES)
def test_what_is_exported_and_imported_again_computes_the_same(tmp_path, layout, pre_bias):
    if layout == "dictionary_learning":
        pytest.importorskip("torch")
    export_layout(dictionary(pre_bias, thresholds=True), layout, tmp_path)
    found = read_foreign(str(tmp_path), layout)
    assert found.activation == JumpReLU()
    pre = (X - found.pre_bias * found.b_dec) @ found.W_enc.T + found.b_enc
    z = np.where(pre > np.maximum(found.threshold, 0), pre, 0)
    expected_z, expected = slow(pre_bias)
    np.testing.assert_allclose(z, expected_z, atol=1e-4)
    np.testing.assert_allclose(z @ found.W_dec + found.b_dec, expected, atol=1e-4)


@pytest.mark.parametrize("pre_bias", PRE_BIASES)
def test_sae_lens_itself(tmp_path, pre_bias):
    sae_lens, torch = pytest.importorskip("sae_lens"), pytest.importorskip("torch")
    export_layout(dictionary(pre_bias, thresholds=True), "sae_lens", tmp_path)
    found = sae_lens.SAE.load_from_disk(tmp_path)(torch.from_numpy(X)).detach().numpy()
    np.testing.assert_allclose(found, slow(pre_bias)[1], atol=1e-4)


@pytest.mark.parametrize("pre_bias", PRE_BIASES)
def test_dictionary_learning_itself(tmp_path, pre_bias):
    utils = pytest.importorskip("dictionary_learning.utils")
    torch = pytest.importorskip("torch")
    export_layout(dictionary(pre_bias, thresholds=True), "dictionary_learning", tmp_path)
    loaded, _ = utils.load_dictionary(str(tmp_path), "cpu")
    found = loaded(torch.from_numpy(X)).detach().numpy()
    np.testing.assert_allclose(found, slow(pre_bias)[1], atol=1e-4)


def test_sae_lens_reads_the_params_of_gemma_scope(tmp_path, monkeypatch):
    loaders = pytest.importorskip("sae_lens.loading.pretrained_sae_loaders")
    saes, torch = pytest.importorskip("sae_lens.saes"), pytest.importorskip("torch")
    export_layout(dictionary(0.5, thresholds=True), "gemma_scope", tmp_path)
    monkeypatch.setattr(loaders, "hf_hub_download", lambda **_: str(tmp_path / "params.npz"))
    load = loaders.gemma_2_sae_huggingface_loader
    state = load("google/gemma-scope-2b-pt-res", "layer_3/width_16k/average_l0_9")[1]
    config = saes.JumpReLUSAEConfig(d_in=D, d_sae=F, apply_b_dec_to_input=False)
    theirs = saes.JumpReLUSAE(config)
    theirs.load_state_dict(state)
    found = theirs(torch.from_numpy(X)).detach().numpy()
    np.testing.assert_allclose(found, slow(0.5)[1], atol=1e-4)


@pytest.mark.parametrize(
    ("layout", "thresholds", "kind"),
    [("gemma_scope", False, "topk"), ("sparsify", True, "jumprelu")],
)
def test_an_activation_that_a_layout_has_not_is_refused(tmp_path, layout, thresholds, kind):
    with pytest.raises(UserError, match=f"{kind} and layout {layout}"):
        export_layout(dictionary(thresholds=thresholds), layout, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("thresholds", [False, True])
@pytest.mark.parametrize("pre_bias", PRE_BIASES)
def test_a_folder_for_the_hub_is_the_same_dictionary(tmp_path, pre_bias, thresholds):
    source = dictionary(pre_bias, thresholds=thresholds)
    export_layout(source, "huggingface", tmp_path)
    found = vj.load(tmp_path)
    np.testing.assert_allclose(found.encode(X), source.encode(X), atol=1e-4)
    np.testing.assert_array_equal(found.layer_token_ids, source.layer_token_ids)
    assert (found.tokens, found.k) == (source.tokens, source.k)
    again = read_foreign(str(tmp_path))
    assert (again.library, again.k) == ("sae_lens", source.k)


def test_the_card_states_figures_evidence_claims_and_the_citation(tmp_path):
    from vasae_jax.dictionary.claims import CLAIM, LAYER_CLAIM

    export_layout(dictionary(), "huggingface", tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    words = " ".join(card.split())
    assert card.startswith('---\nlibrary_name: vasae-jax\nbase_model: "test/tiny"\n')
    for part in (
        CLAIM,
        LAYER_CLAIM,
        "arXiv",
        "2606.27941",
        "Verdicts on the first name over the 900 rows",
    ):
        assert part in words
    # Feature 0 fires on no row.
    counts = {"holds": 7, "in part": 4, "does not hold": 4, "untested": 4}
    for verdict, count in counts.items():
        assert f"| {verdict} | {count} |" in card


@pytest.mark.parametrize("name", ["sae_weights.safetensors", "names.jsonl", "cfg.json"])
def test_files_of_two_exports_for_the_hub_are_not_mixed(tmp_path, name):
    export_layout(dictionary(), "huggingface", tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + b" ")
    with pytest.raises(UserError, match=f"{name} is not the file that meta.json was written with"):
        vj.load(tmp_path)


def test_the_config_of_the_folder_for_the_hub_has_its_layer_names(tmp_path):
    export_layout(dictionary(), "huggingface", tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text(encoding="utf-8"))
    assert len(config["metadata"]["layer_names"]["name"]) == F


def test_pushing_without_the_hub_is_one_sentence_and_the_folder_stays(tmp_path, monkeypatch):
    from huggingface_hub import constants

    from vasae_jax.utils.hub import upload

    written = export_layout(dictionary(), "huggingface", tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="me/mine cannot be written: HF_HUB_OFFLINE is set"):
        upload(written, "me/mine")
    assert (tmp_path / "README.md").is_file()


class Hub:
    """The hub's interface as uploads use it; one repository."""

    def __init__(self, private=None):
        self.private, self.uploaded = private, {}

    def create_repo(self, repository, *, private, exist_ok):
        assert exist_ok
        self.private = private if self.private is None else self.private

    def repo_info(self, repository):
        return self

    def create_commit(self, repository, operations, *, commit_message):
        self.uploaded |= {one.path_in_repo: one.path_or_fileobj for one in operations}


@pytest.mark.fault
@pytest.mark.parametrize("public", [False, True])
def test_a_push_uploads_exactly_what_was_written_in_private_unless_asked(
    tmp_path, monkeypatch, public
):
    import huggingface_hub

    from vasae_jax.utils.hub import upload

    for secret in (".env", "id_rsa", "notes.md"):
        (tmp_path / secret).write_text("secret", encoding="utf-8")
    written = export_layout(dictionary(), "huggingface", tmp_path)
    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    upload(written, "me/mine", public=public)
    assert hub.private is not public
    assert hub.uploaded == {path.name: str(path) for path in written}
    assert set(hub.uploaded) == set(os.listdir(tmp_path)) - {".env", "id_rsa", "notes.md"}


@pytest.mark.fault
def test_a_public_repository_gets_nothing_unasked(tmp_path, monkeypatch):
    import huggingface_hub

    from vasae_jax.utils.hub import upload

    written = export_layout(dictionary(), "huggingface", tmp_path)
    hub = Hub(private=False)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    with pytest.raises(UserError, match="--public"):
        upload(written, "me/mine")
    assert hub.uploaded == {}
    upload(written, "me/mine", public=True)
    assert len(hub.uploaded) == len(written)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("layout", "name", "content"),
    [
        ("dictionary_learning", "config.json", '{"model_type": "gpt2"}'),
        ("sae_lens", "cfg.json", "[]"),
        ("sparsify", "cfg.json", '{"name": "mine"}'),
        ("huggingface", "README.md", "# Mine"),
        ("huggingface", "meta.json", '{"mine": 1}'),
    ],
)
def test_overwriting_replaces_no_files_but_those_of_an_export(tmp_path, layout, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError):
        export_layout(dictionary(), layout, tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text(encoding="utf-8") == content
    (tmp_path / name).unlink()
    export_layout(dictionary(), layout, tmp_path)
    (tmp_path / "notes.md").write_text("mine", encoding="utf-8")
    export_layout(dictionary(), layout, tmp_path, overwrite=True)
    assert (tmp_path / "notes.md").read_text(encoding="utf-8") == "mine"


@pytest.mark.fault
def test_nor_does_overwriting_a_dictionary(tmp_path):
    (tmp_path / "meta.json").write_text('{"mine": 1}', encoding="utf-8")
    with pytest.raises(UserError, match=r"meta\.json"):
        write_dictionary(tmp_path / "d.npz", dictionary(), overwrite=True)
    assert (tmp_path / "meta.json").read_text(encoding="utf-8") == '{"mine": 1}'
