"""Settings of other libraries: known ones are read, what may change the function is refused.

The settings that are read are those of published SAEs.
"""

import json

import numpy as np
import pytest
from foreign_fixtures import (
    D,
    F,
    K,
    slow,
    weights,
    write_dictionary_learning,
    write_gemma_scope,
    write_sae_lens,
    write_sparsify,
)
from safetensors.numpy import load_file, save_file
from test_foreign import X, same

from vasae_jax.interop.libraries import read_foreign
from vasae_jax.sites import Site
from vasae_jax.utils.errors import UserError

pytestmark = pytest.mark.fault
GEMMA_3 = {
    "hf_hook_point_in": "model.layers.3.output",
    "hf_hook_point_out": "model.layers.3.output",
    "width": F,
    "model_name": "google/gemma-3-4b-pt",
    "architecture": "jump_relu",
    "l0": 150,
    "affine_connection": False,
    "type": "sae",
}
BEFORE_6 = {
    "architecture": "standard",
    "activation_fn_str": "topk",
    "activation_fn_kwargs": {"k": K, "signed": False},
    "hook_point": "blocks.3.hook_resid_pre",
    "hook_point_layer": 3,
    "hook_point_head_index": None,
    "dtype": "torch.float32",
    "normalize_activations": False,
    "dataset_path": "Skylion007/openwebtext",
    "l1_coefficient": 8e-05,
    "use_ghost_grads": False,
    "feature_reinit_scale": 0.2,
    "finetuning_scaling_factor": False,
    "metadata": {},
}


def sae_lens(folder, architecture="topk", **config):
    return write_sae_lens(folder, weights(), architecture, **config)


def jumprelu(folder, **config):
    return write_sae_lens(folder, weights(), "jumprelu", **config)


def sparsify(folder, **config):
    return write_sparsify(folder, weights(), **config)


def dictionary_learning(folder, kind="AutoEncoderTopK", buffer=None, **trainer):
    pytest.importorskip("torch")
    write_dictionary_learning(folder, weights(), kind, **trainer)
    return edit(folder / "config.json", **({} if buffer is None else {"buffer": buffer}))


def gemma_scope(folder, **config):
    place = write_gemma_scope(folder, weights(), "safetensors", "layer_3_width_48")
    (place / "config.json").write_text("{}", encoding="utf-8")
    return edit(place / "config.json", **{**GEMMA_3, **config})


def edit(file, **config):
    file.write_text(
        json.dumps(json.loads(file.read_text(encoding="utf-8")) | config), encoding="utf-8"
    )
    return file.parent


CHANGE_THE_FUNCTION = [
    (sparsify, "signed", True),
    (sparsify, "signed", 0),
    (sparsify, "signed", "false"),
    (sparsify, "activation", "groupmax"),
    (sparsify, "activation", None),
    (sparsify, "transcode", True),
    (sparsify, "skip_connection", True),
    (sparsify, "num_latents", F + 1),
    (sparsify, "d_in", D + 1),
    (sparsify, "normalize_decoder", "yes"),
    (sae_lens, "architecture", "abstopk"),
    (sae_lens, "architecture", "matching_pursuit"),
    (sae_lens, "apply_b_dec_to_input", "false"),
    (sae_lens, "apply_b_dec_to_input", None),
    (sae_lens, "apply_b_dec_to_input", 0),
    (sae_lens, "normalize_activations", "expected_average_only_in"),
    (sae_lens, "normalize_activations", True),
    (sae_lens, "reshape_activations", "hook_z"),
    (sae_lens, "dtype", "int8"),
    (sae_lens, "activation_fn", "tanh-relu"),
    (sae_lens, "activation_fn_kwargs", {"k": K + 1}),
    (sae_lens, "activation_fn_kwargs", {"k": K, "signed": True}),
    (sae_lens, "activation_fn_kwargs", {"k": K, "postact_fn": "Identity"}),
    (sae_lens, "hook_head_index", 2),
    (sae_lens, "metadata", {"hook_head_index": 2}),
    (sae_lens, "metadata", {"hook_name_out": "blocks.3.hook_mlp_out"}),
    (sae_lens, "is_transcoder", True),
    (sae_lens, "d_sae", F + 1),
    (sae_lens, "rescale_acts_by_decoder_norm", "true"),
    (jumprelu, "rescale_acts_by_decoder_norm", True),
    (jumprelu, "activation_fn", "topk"),
    (dictionary_learning, "dict_class", None),
    (dictionary_learning, "dict_size", F + 1),
    (dictionary_learning, "activation_dim", D + 1),
    (dictionary_learning, "k", K + 1),
    (dictionary_learning, "layer", [3, 4]),
    (dictionary_learning, "buffer", {"io": "in"}),
    (dictionary_learning, "buffer", {"layer": 3}),
    (gemma_scope, "architecture", "topk"),
    (gemma_scope, "type", "crosscoder"),
    (gemma_scope, "affine_connection", True),
    (gemma_scope, "width", F + 1),
    (gemma_scope, "hf_hook_point_in", "model.layers.4.output"),
    (gemma_scope, "hf_hook_point_out", "model.layers.3.post_feedforward_layernorm.output"),
]


@pytest.mark.parametrize(("write", "key", "value"), CHANGE_THE_FUNCTION)
def test_a_value_that_changes_the_function_is_refused(tmp_path, write, key, value):
    with pytest.raises(UserError):
        read_foreign(str(write(tmp_path / "layers.3", **{key: value})))


@pytest.mark.parametrize("write", [sae_lens, sparsify, dictionary_learning, gemma_scope])
def test_a_key_that_is_not_known_is_refused_by_name(tmp_path, write):
    read_foreign(str(write(tmp_path / "a" / "layers.3")))
    with pytest.raises(UserError, match="temperature"):
        read_foreign(str(write(tmp_path / "b" / "layers.3", temperature=1.0)))


def test_so_are_those_of_the_other_tables_of_dictionary_learning(tmp_path):
    with pytest.raises(UserError, match="temperature"):
        read_foreign(str(dictionary_learning(tmp_path, buffer={"temperature": 1.0})))
    with pytest.raises(UserError, match="scale"):
        read_foreign(str(edit(dictionary_learning(tmp_path) / "config.json", scale={})))


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (sae_lens, "sae_weights.safetensors"),
        (sparsify, "sae.safetensors"),
        (gemma_scope, "params.safetensors"),
    ],
)
def test_a_tensor_that_is_not_known_is_refused_by_name(tmp_path, write, name):
    folder = write(tmp_path / "layers.3")
    tensors = load_file(folder / name)
    save_file(tensors | {"W_skip": np.zeros((D, D), np.float32)}, folder / name)
    with pytest.raises(UserError, match="W_skip"):
        read_foreign(str(folder))


def change_tensors(folder, **changed):
    """Replaces tensors of ``ae.pt``; None removes one."""
    import torch

    state = torch.load(folder / "ae.pt") | changed
    torch.save({key: value for key, value in state.items() if value is not None}, folder / "ae.pt")
    return folder


def test_what_dictionary_learning_stores_beside_the_weights_is_checked(tmp_path):
    torch = pytest.importorskip("torch")
    topk = dictionary_learning(tmp_path / "a")
    with pytest.raises(UserError, match="one k"):
        read_foreign(str(change_tensors(topk, k=torch.tensor(K + 2))))
    groups = dictionary_learning(tmp_path / "b", "MatryoshkaBatchTopKSAE")
    with pytest.raises(UserError, match="groups of 24"):
        read_foreign(str(change_tensors(groups, group_sizes=torch.tensor([8, 16]))))
    jump = dictionary_learning(tmp_path / "c", "JumpReluAutoEncoder")
    with pytest.raises(UserError, match="threshold"):
        read_foreign(str(change_tensors(jump, threshold=None)))
    batch = dictionary_learning(tmp_path / "d", "BatchTopKSAE")
    with pytest.raises(UserError, match="threshold"):
        read_foreign(str(change_tensors(batch, threshold=torch.ones(F))))


def test_settings_of_published_saes_are_read(tmp_path):
    old = read_foreign(str(sae_lens(tmp_path / "old", k=K, **BEFORE_6)))
    assert (old.site, old.notes) == (Site(2), ())
    same(old, slow(weights(), X, k=K, taken=1.0))
    config = {"expansion_factor": F // D, "normalize_decoder": True, "num_latents": 0}
    eleuther = read_foreign(str(sparsify(tmp_path / "layers.7", signed=False, **config)))
    assert (eleuther.site, eleuther.notes) == (Site(7), ())
    gemma = read_foreign(str(gemma_scope(tmp_path / "gemma")))
    assert (gemma.site, gemma.model) == (Site(3), "google/gemma-3-4b-pt")
    same(gemma, slow(weights(), X, threshold=weights()["threshold"]))


def test_embeddings_are_no_output_of_a_block(tmp_path):
    with pytest.raises(UserError, match="embeddings"):
        read_foreign(str(sparsify(tmp_path / "embed_tokens")))


@pytest.mark.parametrize(
    ("write", "config", "word"),
    [
        (sparsify, {"multi_topk": True}, "multi_topk"),
        (sae_lens, {"dtype": "torch.bfloat16"}, "bfloat16"),
        (sae_lens, {"seqpos_slice": [1, -1]}, "positions"),
        (sae_lens, {"metadata": {"exclude_special_tokens": True}}, "special tokens"),
        (sae_lens, {"metadata": {"model_from_pretrained_kwargs": {"n_ctx": 9}}}, "n_ctx"),
    ],
)
def test_what_a_user_should_know_is_noted(tmp_path, write, config, word):
    (note,) = read_foreign(str(write(tmp_path / "layers.3", **config))).notes
    assert word in note
