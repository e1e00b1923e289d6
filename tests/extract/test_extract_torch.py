"""The torch backend over many families, against transformers' own hidden states and logits."""

import json

import gguf
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from gguf_fixtures import write_gguf
from lm_fixtures import (
    VOCAB,
    gpt2_config,
    llama_config,
    random_model,
    random_tokens,
    save_model,
    torch_residuals,
)
from safetensors.numpy import load_file, save_file

from vasae_jax.extract import Settings, extract
from vasae_jax.extract.torch import TorchLM, describe_norm, find_blocks
from vasae_jax.lm import load_lm
from vasae_jax.sites import Site
from vasae_jax.utils.errors import UserError

SMALL = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
FEW = {**SMALL, "intermediate_size": 48, "max_position_embeddings": 64}
GROUPED = {**FEW, "num_key_value_heads": 2, "head_dim": 8}
FAMILIES = {
    "gpt2": {"vocab_size": VOCAB, "n_positions": 64, "n_embd": 32, "n_layer": 3, "n_head": 4},
    "llama": GROUPED,
    "gpt_neox": FEW,
    "opt": {**SMALL, "ffn_dim": 48, "max_position_embeddings": 64, "word_embed_proj_dim": 32},
    "gemma": GROUPED,
    "gemma2": GROUPED,
    "gemma3_text": GROUPED,
    "qwen2": FEW | {"num_key_value_heads": 2},
    "qwen3": GROUPED,
    "bloom": {"vocab_size": VOCAB, "hidden_size": 32, "n_layer": 3, "n_head": 4},
    "phi": FEW,
    "mpt": {"vocab_size": VOCAB, "d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": 64},
    "mixtral": GROUPED | {"num_local_experts": 3},
    "olmo": FEW,
}
RMS = {"llama", "gemma", "gemma2", "gemma3_text", "qwen2", "qwen3", "mixtral"}


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request, tmp_path_factory):
    """A random model of one family, and the backend's reading of its directory."""
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = transformers.AutoConfig.for_model(request.param, **FAMILIES[request.param], **special)
    model = random_model(config)
    place = save_model(model, tmp_path_factory.mktemp(request.param))
    return request.param, model, TorchLM(str(place))


def normed(rows, norm):
    """The final norm as the cache describes it, in float64."""
    rows = rows.astype(np.float64)
    if norm["kind"] == "layernorm":
        rows = rows - rows.mean(-1, keepdims=True)
    rows = rows / np.sqrt(np.square(rows).mean(-1, keepdims=True) + norm["eps"])
    return rows * np.asarray(norm["weight"]) + (0 if norm["bias"] is None else norm["bias"])


def test_rows_norm_and_unembedding_are_the_models_own(loaded):
    """Up to the last layer hidden states are compared as they are; the last one after its norm."""
    name, model, lm = loaded
    tokens = random_tokens((2, 11))
    with torch.inference_mode():
        found = model(torch.from_numpy(tokens).long(), output_hidden_states=True, use_cache=False)
    hidden = [state.numpy() for state in found.hidden_states]
    rows = lm.residuals(tokens, (0, 1, 2))
    assert rows.shape == (3, 2, 11, 32)
    assert rows.dtype == np.float32
    for layer in (0, 1):
        np.testing.assert_allclose(rows[layer], hidden[layer + 1], rtol=1e-4, atol=1e-4)
    norm = lm.final_norm()
    assert norm["kind"] == ("rmsnorm" if name in RMS else "layernorm")
    last = normed(rows[2], norm)
    np.testing.assert_allclose(last, hidden[3], rtol=1e-3, atol=1e-3)
    logits = last @ lm.unembedding().T
    bias = getattr(model.get_output_embeddings(), "bias", None)
    logits = logits if bias is None else logits + bias.detach().numpy()
    cap = getattr(model.config, "final_logit_softcapping", None)
    logits = cap * np.tanh(logits / cap) if cap else logits
    np.testing.assert_allclose(logits, found.logits.numpy(), rtol=2e-3, atol=2e-3)


def test_sizes_and_embeddings(loaded):
    _, model, lm = loaded
    expected = model.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(lm.embedding(), expected)
    head = model.get_output_embeddings().weight
    tied = head.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    assert (lm.spec.tied, lm.spec.n_layers, lm.spec.d_model) == (tied, 3, 32)
    assert len(lm.tokenizer.vocab().raw) == VOCAB


def test_no_block_runs_after_the_deepest(loaded):
    _, _, lm = loaded
    lm.residuals(
        random_tokens((1, 5)), (1,)
    )  # the first batch is run twice, to see that it is causal
    _, blocks = find_blocks(lm.model, 3)
    ran = []
    handles = [
        block.register_forward_pre_hook(lambda *_, i=i: ran.append(i))
        for i, block in enumerate(blocks)
    ]
    lm.residuals(random_tokens((1, 5)), (1,))
    for handle in handles:
        handle.remove()
    assert ran == [0, 1]


def test_padding_on_the_right_changes_nothing(loaded):
    _, _, lm = loaded
    tokens = random_tokens((2, 9))
    padded = np.zeros((2, 16), np.int32)
    padded[:, :9] = tokens
    for short, long in zip(lm.residuals(tokens, (2,)), lm.residuals(padded, (2,)), strict=True):
        np.testing.assert_allclose(short, long[:, :9], rtol=1e-4, atol=1e-4)


def test_a_replaced_block_is_what_the_rest_of_the_model_sees(loaded):
    _, _, lm = loaded
    tokens = random_tokens((2, 9))
    rows, logits = lm.residuals(tokens, (0, 2)), lm.logits(tokens)
    for place, layer in enumerate((0, 2)):
        same = lm.patched(tokens, rows[place], layer)
        np.testing.assert_allclose(same, logits, rtol=1e-4, atol=1e-4)
    changed = rows[0].copy()
    changed[:, 5] = rows[0][::-1, 5]
    found = lm.patched(tokens, changed, 0)
    np.testing.assert_allclose(found[:, :5], logits[:, :5], rtol=1e-4, atol=1e-4)
    assert np.abs(found[:, 5] - logits[:, 5]).max() > 1e-2


def test_bfloat16_rows_are_rounded_on_the_way(tmp_path):
    lm = TorchLM(str(save_model(random_model(llama_config()), tmp_path)))
    tokens = random_tokens((2, 9))
    exact = lm.residuals(tokens, (0, 2))
    rounded = lm.rows(tokens, (0, 2), "bfloat16")()
    assert rounded.dtype.name == "bfloat16"
    np.testing.assert_array_equal(rounded, exact.astype(rounded.dtype))


def small_llama(tmp_path, **overrides):
    """A directory of a small Llama of two layers, and its tensors."""
    directory = save_model(random_model(llama_config(num_hidden_layers=2, **overrides)), tmp_path)
    return directory, load_file(directory / "model.safetensors")


def edit(path, **changes):
    settings = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(settings), encoding="utf-8")


# Weights: all of them, and no others.

UP = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.fault
@pytest.mark.parametrize(
    "change, name",
    [
        (lambda all: {f"module.{name}": t for name, t in all.items()}, "lm_head.weight"),
        (lambda all: without(all, UP), UP),
        (lambda all: without(all, "lm_head.weight"), "lm_head.weight"),
        (lambda all: all | {"score.weight": np.zeros((2, 48), np.float32)}, "score.weight"),
        (lambda all: all | {UP: np.zeros((79, 48), np.float32)}, UP),
    ],
)
def test_weights_that_are_missing_unknown_or_misshapen_are_refused(tmp_path, change, name):
    directory, tensors = small_llama(tmp_path)
    save_file(change(tensors), directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=name):
        TorchLM(str(directory)).embedding()


def without(tensors, name):
    return {key: tensor for key, tensor in tensors.items() if key != name}


def test_a_tied_head_may_be_absent_and_buffers_of_older_files_be_there(tmp_path):
    directory, tensors = small_llama(tmp_path, tie_word_embeddings=True)
    angles = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32)}
    save_file(
        without(tensors, "lm_head.weight") | angles,
        directory / "model.safetensors",
        metadata={"format": "pt"},
    )
    lm = TorchLM(str(directory))
    np.testing.assert_array_equal(lm.unembedding(), tensors["model.embed_tokens.weight"])
    assert lm.spec.tied


@pytest.mark.fault
@pytest.mark.parametrize("setting", [{"is_causal": False}, {"use_bidirectional_attention": True}])
@pytest.mark.parametrize("nested", [False, True])
def test_models_that_say_they_attend_to_later_tokens_are_refused(tmp_path, setting, nested):
    directory, _ = small_llama(tmp_path)
    edit(directory / "config.json", **({"text_config": setting} if nested else setting))
    with pytest.raises(UserError, match=next(iter(setting))):
        TorchLM(str(directory))


@pytest.mark.fault
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_models_that_attend_to_later_tokens_are_found_in_the_first_batch(tmp_path, dtype):
    lm = TorchLM(str(small_llama(tmp_path)[0]), dtype=dtype)
    tokens = random_tokens((2, 9))
    lm.residuals(tokens, (1,))
    look_ahead(lm, 0)
    lm.residuals(tokens, (1,))  # the check is over
    again = TorchLM(str(tmp_path), dtype=dtype)
    look_ahead(again, 0)
    with pytest.raises(UserError, match="later tokens"):
        again.rows(tokens, (1,), "bfloat16")


def look_ahead(lm, layer):
    """Let every row of a layer depend on all tokens of its window."""

    def add_mean(module, inputs, output):
        return output + 0.3 * output.mean(1, keepdim=True)

    lm.model.model.layers[layer].register_forward_hook(add_mean)


@pytest.mark.fault
def test_a_model_with_code_of_its_own_is_refused_without_a_question(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    directory, _ = small_llama(tmp_path)
    own = {"AutoConfig": "odd.OddConfig", "AutoModelForCausalLM": "odd.LlamaForCausalLM"}
    edit(directory / "config.json", auto_map=own)
    (directory / "odd.py").write_text("raise SystemExit('run')", encoding="utf-8")
    TorchLM(str(directory)).embedding()  # transformers' own class
    assert "auto_map" in capsys.readouterr().err
    for odd in ({"model_type": "odd"}, {"architectures": ["OddForCausalLM"]}):
        edit(directory / "config.json", **odd)
        with pytest.raises(UserError, match="auto_map"):
            TorchLM(str(directory))


def test_ids_without_a_row_in_the_embedding_are_refused(tmp_path):
    lm = TorchLM(str(small_llama(tmp_path)[0]))
    tokens = np.array([[1, VOCAB]])
    for run in (lm.logits, lambda tokens: lm.residuals(tokens, (0,))):
        with pytest.raises(UserError, match=f"token id {VOCAB}"):
            run(tokens)


# GGUF, of which transformers reads what it knows.


@pytest.mark.fault
@pytest.mark.parametrize("config", [llama_config(), gpt2_config()])
def test_gguf_that_the_flax_models_read_in_full_is_left_to_them(tmp_path, config):
    file = write_gguf(random_model(config), tmp_path / "tiny.gguf")
    with pytest.raises(UserError, match="--backend flax"):
        TorchLM(str(file))


def stablelm():
    """A model of an architecture that transformers alone reads; a quarter of a head is rotated."""
    return random_model(
        transformers.StableLmConfig(**(FEW | {"num_key_value_heads": 2, "hidden_size": 64}))
    )


def test_other_gguf_gives_the_rows_of_the_model(tmp_path):
    model = stablelm()
    lm = TorchLM(str(write_gguf(model, tmp_path / "tiny.gguf", add_sliding_window=9)))
    assert (lm.id, lm.spec.window) == ("tiny", 9)
    tokens = random_tokens((1, 7))
    np.testing.assert_allclose(
        lm.residuals(tokens, (1,))[0], torch_residuals(model, tokens)[1], rtol=1e-3, atol=1e-3
    )


@pytest.mark.fault
@pytest.mark.parametrize(
    "changes, key",
    [
        ({"add_rope_scaling_factor": 4.0}, "rope.scaling.factor"),
        ({"add_attn_logit_softcapping": 30.0}, "attn_logit_softcapping"),
        ({"add_final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ({"add_logit_scale": 0.5}, "logit_scale"),
        ({"add_attention_scale": 0.5}, "attention.scale"),
        ({"add_key_length": 8}, "attention.key_length"),
        ({"add_rope_dimension_count": 8}, "rope.dimension_count"),
    ],
)
def test_gguf_settings_that_transformers_passes_over_are_refused(tmp_path, changes, key):
    file = write_gguf(stablelm(), tmp_path / "x.gguf", **changes)
    with pytest.raises(UserError, match=key):
        TorchLM(str(file))


@pytest.mark.fault
def test_gguf_settings_that_would_get_a_default_are_required(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf.GGUFWriter, "add_layer_norm_eps", lambda *_: None)
    file = write_gguf(stablelm(), tmp_path / "x.gguf")
    with pytest.raises(UserError, match="layer_norm_epsilon None"):
        TorchLM(str(file))


@pytest.mark.fault
def test_gguf_tensors_that_transformers_passes_over_are_refused(tmp_path):
    divisors = np.ones(2, np.float32)
    file = write_gguf(stablelm(), tmp_path / "x.gguf", rope_freqs=divisors)
    with pytest.raises(UserError, match="numbers"):
        TorchLM(str(file)).embedding()


@pytest.mark.parametrize(
    "config, message",
    [
        (transformers.BertConfig(architectures=["BertModel"]), "BertModel, an encoder; expected"),
        (transformers.T5Config(architectures=["T5ForConditionalGeneration"]), "an encoder-decoder"),
        (
            transformers.ViTConfig(architectures=["ViTModel"]),
            "ViTModel, not a causal language model",
        ),
    ],
)
def test_what_is_no_causal_model_is_refused_by_name(tmp_path, config, message):
    config.save_pretrained(tmp_path)  # no weights: the refusal comes before they are looked for
    with pytest.raises(UserError, match=message):
        TorchLM(str(tmp_path))


@pytest.mark.parametrize(
    "source, message",
    [("./nowhere", "does not exist; expected a directory"), ("", "name is empty")],
)
def test_a_missing_model_is_one_sentence(source, message):
    with pytest.raises(UserError, match=message):
        TorchLM(source)


def test_corrupt_settings_weights_and_device(tmp_path):
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"config\.json is not JSON"):
        TorchLM(str(tmp_path))
    place = save_model(random_model(llama_config()), tmp_path / "m")
    with pytest.raises(UserError, match="device 'moon' cannot be used"):
        TorchLM(str(place), device="moon")
    (place / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match="cannot be loaded by transformers"):
        TorchLM(str(place)).embedding()


def test_a_projected_embedding_is_refused(tmp_path):
    """OPT-350m's embedding is narrower than its residual stream: no row can be compared."""
    shape = {**FAMILIES["opt"], "word_embed_proj_dim": 16}
    config = transformers.OPTConfig(bos_token_id=0, eos_token_id=0, pad_token_id=0, **shape)
    lm = TorchLM(str(save_model(random_model(config), tmp_path)))
    with pytest.raises(
        UserError, match=r"input embeddings of shape \(384, 16\); expected \(384, 32\)"
    ):
        lm.embedding()


def test_an_unknown_norm_is_refused():
    class Odd(torch.nn.Module):
        def forward(self, rows):
            return rows.tanh()

    with pytest.raises(UserError, match="Odd computes neither"):
        describe_norm(Odd(), 8)


@pytest.mark.parametrize("read", [load_lm, TorchLM])
def test_a_site_without_a_hook_is_refused(tmp_path, read):
    lm = read(str(save_model(random_model(llama_config()), tmp_path)))
    with pytest.raises(UserError, match=r"no hook for layers\.1\.mlp_out"):
        lm.residuals(random_tokens((1, 4)), (0, Site(1, "mlp_out")))
    patch = lm.patched if read is TorchLM else lambda _, *rest: lm.continue_from(*rest)
    with pytest.raises(UserError, match=r"no hook for layers\.1\.attn_out"):
        patch(random_tokens((1, 4)), np.zeros((1, 4, 48), np.float32), "layers.1.attn_out")


@pytest.mark.fault
def test_a_token_without_a_row_is_named_with_its_document_before_weights_are_read(tmp_path):
    directory, _ = small_llama(tmp_path)
    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.add_tokens(["<tag>"])
    tokenizer.save(str(directory / "tokenizer.json"))
    lm = TorchLM(str(directory))
    settings = Settings(layers=(0,), context_length=16)
    with pytest.raises(UserError, match=r"document 2 .*'<tag>' has id 384.*'a <tag>"):
        extract(lm, ["one text", "two", "a <tag>"], str(tmp_path / "c"), settings, source="x")
    assert "model" not in vars(lm)
