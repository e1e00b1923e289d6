"""Each unusable source is one sentence naming what was found and what was expected."""

import json

import lm_fixtures as fx
import numpy as np
import pytest
import torch
import transformers
from gguf_fixtures import write_gguf
from safetensors.numpy import load_file, save_file

from vasae_jax.lm import load_lm
from vasae_jax.lm.hf_config import spec_from_config
from vasae_jax.lm.spec import MODEL_TYPES, SUPPORTED, family_of
from vasae_jax.utils.errors import UserError


@pytest.fixture
def directory(tmp_path):
    return fx.save_model(fx.random_model(fx.llama_config(num_hidden_layers=1)), tmp_path / "small")


def edit(path, **changes):
    config = json.loads(path.read_text(encoding="utf-8"))
    config.update(changes)
    path.write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("BertModel", "BertModel.*GPT2LMHeadModel, LlamaForCausalLM"),
        ("BertForMaskedLM", "BertForMaskedLM"),
        ("RobertaModel", "RobertaModel"),
        ("T5ForConditionalGeneration", "T5ForConditionalGeneration"),
        ("BloomForCausalLM", "BloomForCausalLM.*--backend torch"),
        ("OddModel", "OddModel"),
    ],
)
def test_architectures_are_refused_by_name(architecture, message):
    with pytest.raises(UserError, match=message):
        family_of(architecture, "config.json")


def test_architecture_is_refused_before_the_weights_are_opened(directory):
    (directory / "model.safetensors").unlink()
    edit(directory / "config.json", architectures=["BertModel"])
    with pytest.raises(UserError, match="BertModel"):
        load_lm(directory)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "'yarn'"),
        ({"rope_parameters": {**fx.LLAMA3, "factor": None}}, "factor None"),
        (
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "partial_rotary_factor 0.5",
        ),
        ({"hidden_size": None}, "hidden_size None"),
        ({"hidden_size": "48"}, "hidden_size '48'"),
        ({"num_key_value_heads": 4}, "6 query heads and 4 key heads"),
        ({"hidden_act": "mish"}, "activation 'mish'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised"),
        ({"mlp_bias": "yes"}, "mlp_bias 'yes'"),
        ({"head_dim": 15}, "heads of size 15"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps 'small'"),
        (
            {"rope_parameters": {**fx.LLAMA3, "high_freq_factor": 1.0}},
            "high_freq_factor 1.0 and low_freq_factor 1.0",
        ),
    ],
)
def test_unusable_settings_name_file_and_key(changes, message):
    config = {**fx.llama_config().to_dict(), "architectures": ["LlamaForCausalLM"], **changes}
    with pytest.raises(UserError, match=f"some/config.json .*{message}"):
        spec_from_config(config, "some/config.json")


def test_gpt2_settings_that_change_the_attention_are_refused():
    config = {**fx.gpt2_config(scale_attn_by_inverse_layer_idx=True).to_dict()}
    with pytest.raises(UserError, match="scale_attn_by_inverse_layer_idx True"):
        spec_from_config({**config, "architectures": ["GPT2LMHeadModel"]}, "config.json")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/not/here", "does not exist"),
        ("./not-here", "does not exist"),
        ("not-here.gguf", "does not exist"),
        ("", "name is empty"),
    ],
)
def test_missing_local_paths_say_so(source, message):
    with pytest.raises(UserError, match=message):
        load_lm(source)


def test_unreachable_hub_is_one_sentence(monkeypatch):
    import huggingface_hub

    def unreachable(name, **options):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no route\nmore lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(UserError, match=r"some-org/some-model .*no route") as caught:
        load_lm("some-org/some-model")
    assert "\n" not in str(caught.value)


def test_hub_name_loads_what_was_downloaded(monkeypatch, directory):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(directory))
    lm = load_lm("some-org/some-model")
    assert (lm.id, lm.revision) == ("some-org/some-model", "small")


def test_unknown_dtype(directory):
    with pytest.raises(UserError, match="'float16'"):
        load_lm(directory, "float16")


def test_directory_without_a_config(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json"):
        load_lm(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_corrupt_config(directory, text):
    (directory / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"config\.json"):
        load_lm(directory)


def test_directory_without_weights(directory):
    (directory / "model.safetensors").rename(directory / "other.bin")
    with pytest.raises(UserError, match=r"other\.bin.*model\.safetensors"):
        load_lm(directory)


@pytest.mark.parametrize("content", [b"no torch file", b""])
def test_torchs_own_file_that_is_none(directory, content):
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(UserError, match=r"pytorch_model\.bin"):
        load_lm(directory)


def test_a_pickle_of_more_than_weights_is_not_run(directory):
    (directory / "model.safetensors").unlink()
    torch.save({"ran": json.JSONDecoder}, directory / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin"):
        load_lm(directory)


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("GPTNeoXForCausalLM", {"rotary_pct": 1.5}, "rotary_pct 1.5"),
        ("GPTNeoXForCausalLM", {"hidden_size": 34}, "width 34 and 4 heads"),
        (
            "Gemma2ForCausalLM",
            {"use_bidirectional_attention": True},
            "use_bidirectional_attention True",
        ),
        ("Gemma2ForCausalLM", {"final_logit_softcapping": -1.0}, "final_logit_softcapping -1.0"),
        ("Gemma3ForCausalLM", {"layer_types": ["full_attention"]}, "layer_types"),
        ("Gemma3ForCausalLM", {"rope_scaling": {"type": "yarn"}}, "'yarn'"),
    ],
)
def test_settings_of_further_families_that_cannot_be_used(architecture, changes, message):
    plain = {
        "architectures": [architecture], "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 100, "max_position_embeddings": 64, "head_dim": 16,
    }  # fmt: skip
    spec_from_config(plain, "config.json")
    with pytest.raises(UserError, match=f"config.json .*{message}"):
        spec_from_config(plain | changes, "config.json")


@pytest.mark.fault
def test_cut_weights(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors"):
        load_lm(directory)


def test_missing_shard(tmp_path):
    fx.save_model(fx.random_model(fx.llama_config()), tmp_path, shard_size="60KB")
    lost = sorted(tmp_path.glob("model-*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(UserError, match=f"lacks {lost.name}"):
        load_lm(tmp_path)


@pytest.mark.parametrize(
    ("name", "replacement", "message"),
    [
        ("model.layers.0.mlp.up_proj.weight", None, r"no tensor layers\.0\.mlp\.up_proj\.weight"),
        ("model.norm.weight", np.zeros(5, np.float32), r"norm\.weight of shape \(5,\).*\(48,\)"),
        ("lm_head.weight", np.zeros((fx.VOCAB, 48), np.int8), "type I8"),
    ],
)
def test_wrong_tensors_are_named(directory, name, replacement, message):
    path = directory / "model.safetensors"
    tensors = load_file(path)
    tensors.pop(name)
    if replacement is not None:
        tensors[name] = replacement
    save_file(tensors, path)
    with pytest.raises(UserError, match=message):
        load_lm(directory)


def test_tokenizer_larger_than_the_model(tmp_path):
    fx.save_model(fx.random_model(fx.llama_config(vocab_size=300)), tmp_path)
    with pytest.raises(UserError, match=r"tokenizer\.json .*383.*300"):
        load_lm(tmp_path)


@pytest.mark.fault
def test_missing_and_corrupt_tokenizer(directory):
    (directory / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        load_lm(directory)
    (directory / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        load_lm(directory)


@pytest.mark.fault
@pytest.mark.parametrize("keep", [10, 3000, -1000])
def test_cut_gguf(tmp_path, keep):
    path = write_gguf(fx.random_model(fx.gpt2_config(n_layer=1)), tmp_path / "small.gguf")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"small\.gguf"):
        load_lm(path)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "x.gguf").write_text("not a GGUF file at all", encoding="utf-8")
    with pytest.raises(UserError, match=r"x\.gguf"):
        load_lm(tmp_path / "x.gguf")
    (tmp_path / "x.bin").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match=r"x\.bin"):
        load_lm(tmp_path / "x.bin")


@pytest.mark.parametrize("architecture", ["bert", "gemma"])
def test_gguf_architecture_is_refused(tmp_path, architecture):
    import gguf

    path = tmp_path / "other.gguf"
    writer = gguf.GGUFWriter(path, architecture)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(
        UserError, match=f"architecture {architecture}.*llama, gpt2.*--backend torch"
    ):
        load_lm(path)


def odd_gguf(path, source=None, **changes):
    """A file of a small model whose metadata is changed; a value None leaves the key out."""
    import gguf

    add = gguf.GGUFWriter.add_key_value

    def changed(writer, key, value, *rest, **more):
        value = changes.get(key.rsplit(".", 1)[-1], value)
        if value is not None:
            add(writer, key, value, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf.GGUFWriter, "add_key_value", changed)
        source = source or fx.random_model(fx.llama_config(num_hidden_layers=1))
        return write_gguf(source, path)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_count": None}, "llama.block_count None"),
        ({"layer_norm_rms_epsilon": None}, "layer_norm_rms_epsilon None"),
        ({"dimension_count": 8}, "dimension_count 8; .*16"),
        ({"value_length": 8}, "value_length 8; .*16"),
        ({"model": "t5"}, "kind t5"),
        ({"model": "llama"}, "384 tokens, 0 scores and 384 token types"),
        ({"model": None}, "no tokenizer"),
        ({"merges": None}, "without tokens and merges"),
        ({"merges": ["no such"]}, "tokens and merges that disagree"),
    ],
)
def test_gguf_metadata_that_cannot_be_used_is_named(tmp_path, changes, message):
    with pytest.raises(UserError, match=rf"small\.gguf .*{message}"):
        load_lm(odd_gguf(tmp_path / "small.gguf", **changes))


@pytest.mark.parametrize("architecture", SUPPORTED)
@pytest.mark.parametrize("setting", [{"is_causal": False}, {"use_bidirectional_attention": True}])
def test_models_that_attend_to_later_tokens_are_refused(architecture, setting):
    model_type = next(key for key, (name, _) in MODEL_TYPES.items() if name == architecture)
    config = transformers.AutoConfig.for_model(model_type).to_dict()
    config |= {"architectures": [architecture], "is_causal": True}
    spec_from_config(config | {"use_bidirectional_attention": None}, "config.json")
    with pytest.raises(UserError, match=f"{next(iter(setting))} {next(iter(setting.values()))}"):
        spec_from_config(config | setting, "config.json")


REQUIRED = {
    "n_embd", "n_head", "n_layer", "n_positions", "hidden_size", "num_attention_heads",
    "num_hidden_layers", "intermediate_size", "max_position_embeddings", "vocab_size",
}  # fmt: skip


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_missing_settings_are_those_of_transformers(model_type):
    """A config.json may leave out what is the default of its class."""
    full = transformers.AutoConfig.for_model(model_type).to_dict()
    full |= {"architectures": [MODEL_TYPES[model_type][0]]}
    short = {key: value for key, value in full.items() if key in {*REQUIRED, "architectures"}}
    assert spec_from_config(short, "config.json") == spec_from_config(full, "config.json")


@pytest.mark.parametrize(
    ("config", "changes", "name"),
    [
        (fx.llama_config(attention_bias=True), {"attention_bias": False}, "self_attn.k_proj.bias"),
        (fx.llama_config(), {"num_hidden_layers": 2}, "layers.2.input_layernorm"),
    ],
)
def test_tensors_of_a_block_that_would_be_ignored_are_refused(tmp_path, config, changes, name):
    fx.save_model(fx.random_model(config), tmp_path)
    edit(tmp_path / "config.json", **changes)
    with pytest.raises(UserError, match=name):
        load_lm(tmp_path)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("name", "message"),
    [("score.weight", "holds tensor score.weight"), ("norm.weight", "norm.weight 2 times")],
)
def test_tensors_outside_of_blocks_that_would_be_ignored_are_refused(directory, name, message):
    """A head of another kind, and the final norm again under a name without the prefix."""
    path = directory / "model.safetensors"
    save_file(load_file(path) | {name: np.zeros(48, np.float32)}, path)
    with pytest.raises(UserError, match=message):
        load_lm(directory)


def test_code_of_a_models_own_is_said_not_to_be_run(directory, capsys):
    load_lm(directory)
    assert "auto_map" not in capsys.readouterr().err
    edit(directory / "config.json", auto_map={"AutoModelForCausalLM": "odd.LlamaForCausalLM"})
    (directory / "odd.py").write_text("raise SystemExit('run')", encoding="utf-8")
    load_lm(directory)
    assert "auto_map" in capsys.readouterr().err


def test_buffers_of_older_checkpoints_are_left_out(tmp_path):
    fx.save_model(fx.random_model(fx.gpt2_config(n_layer=1)), tmp_path)
    path = tmp_path / "model.safetensors"
    buffers = {
        f"transformer.h.0.attn.{name}": np.ones(1, np.uint8) for name in ("bias", "masked_bias")
    }
    save_file(load_file(path) | buffers, path)
    load_lm(tmp_path)


@pytest.mark.parametrize(
    ("family", "key"),
    [
        ("qwen2", "rope.freq_base"),
        ("gemma3_text", "rope.freq_base"),
        ("gemma3_text", "attention.sliding_window"),
        ("gpt_neox", "rope.dimension_count"),
        ("gpt_neox", "use_parallel_residual"),
    ],
)
def test_gguf_settings_whose_default_would_be_wrong_are_required(tmp_path, family, key):
    shape = {key: value for key, value in fx.llama_config().to_dict().items() if key in SHAPE}
    config = transformers.AutoConfig.for_model(family, **shape, pad_token_id=0)
    path = tmp_path / "small.gguf"
    with pytest.raises(UserError, match=f"{key} None"):
        load_lm(odd_gguf(path, fx.random_model(config), **{key.rsplit(".", 1)[-1]: None}))


SHAPE = (
    "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim",
    "vocab_size", "max_position_embeddings",
)  # fmt: skip
