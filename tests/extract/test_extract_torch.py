"""The torch backend over many families, against transformers' own hidden states and logits."""

import numpy as np
import pytest
import torch
import transformers
from gguf_fixtures import write_gguf
from lm_fixtures import VOCAB, llama_config, random_model, random_tokens, save_model

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


def test_gguf_is_read_through_transformers(tmp_path):
    model = random_model(llama_config())
    lm = TorchLM(str(write_gguf(model, tmp_path / "tiny.gguf")))
    assert lm.id == "tiny"
    tokens = random_tokens((1, 7))
    with torch.inference_mode():
        found = model(torch.from_numpy(tokens).long(), output_hidden_states=True)
    np.testing.assert_allclose(
        lm.residuals(tokens, (1,))[0], found.hidden_states[2].numpy(), rtol=1e-3, atol=1e-3
    )


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
    with pytest.raises(UserError, match="holds no model that transformers"):
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
