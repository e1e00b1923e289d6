"""The legacy Flax classes against torch, the last layer and a tied head included."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from lm_fixtures import VOCAB, write_tokenizer
from safetensors.numpy import load_file, save_file

from vasae_jax.cache import Cache
from vasae_jax.extract import Settings, extract, hf_flax
from vasae_jax.extract.hf_flax import FAMILIES, HfFlaxLM
from vasae_jax.lm import load_lm
from vasae_jax.utils.errors import UserError

OLD = int(transformers.__version__.split(".")[0]) < 5
needs_flax = pytest.mark.skipif(
    not OLD, reason=f"transformers {transformers.__version__} has no Flax classes; < 5 has"
)
SIZES = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
CONFIGS = {
    "gpt2": {"vocab_size": VOCAB, "n_positions": 64, "n_embd": 32, "n_layer": 3, "n_head": 4},
    "llama": {
        **SIZES,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "num_key_value_heads": 2,
    },
}
TEXTS = [f"Document {i} says: " + f"number {i * i}. " * (1 + i % 4) for i in range(24)]


@pytest.fixture(params=[(name, tied) for name in CONFIGS for tied in (True, False)])
def saved(request, tmp_path):
    """A random torch model and its directory."""
    name, tied = request.param
    config = transformers.AutoConfig.for_model(name, **CONFIGS[name], tie_word_embeddings=tied)
    config.bos_token_id = config.eos_token_id = 0
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4).add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(tmp_path / "m")
    write_tokenizer(tmp_path / "m")
    return model, tmp_path / "m"


@pytest.mark.hf_flax
@needs_flax
def test_every_block_and_both_ends_are_the_torch_models(saved):
    model, place = saved
    lm = HfFlaxLM(str(place))
    tokens = np.random.default_rng(0).integers(0, VOCAB, (2, 9), dtype=np.int32)
    with torch.inference_mode():
        found = model(torch.from_numpy(tokens).long(), output_hidden_states=True)
    rows = np.asarray(lm.residuals(tokens, (0, 2)))
    np.testing.assert_allclose(rows[0], found.hidden_states[1].numpy(), rtol=1e-3, atol=1e-3)
    norm = lm.final_norm()
    last = rows[1] - (rows[1].mean(-1, keepdims=True) if norm["kind"] == "layernorm" else 0)
    last = last / np.sqrt(np.square(last).mean(-1, keepdims=True) + norm["eps"])
    last = last * np.array(norm["weight"]) + np.array(0 if norm["bias"] is None else norm["bias"])
    np.testing.assert_allclose(
        last @ lm.unembedding().T, found.logits.numpy(), rtol=1e-3, atol=2e-3
    )
    np.testing.assert_array_equal(lm.embedding(), model.get_input_embeddings().weight.detach())


@pytest.mark.hf_flax
@needs_flax
def test_the_cache_is_that_of_the_flax_backend(saved, tmp_path):
    _, place = saved
    settings = Settings(context_length=16, dtype="float32")
    for kind, lm in (("flax", load_lm(place)), ("hf-flax", HfFlaxLM(str(place)))):
        extract(lm, TEXTS, str(tmp_path / kind), settings, source="made up")
    ours, theirs = (Cache.open(str(tmp_path / kind)) for kind in ("flax", "hf-flax"))
    for field in ("model", "text", "splits", "digests", "tied", "sites"):
        assert getattr(ours.manifest, field) == getattr(theirs.manifest, field), field
    for layer in (0, 1, 2):
        rows = [c.acts(layer, "train").read(0, c.rows("train")) for c in (ours, theirs)]
        np.testing.assert_allclose(*rows, rtol=1e-3, atol=1e-3)


@pytest.mark.hf_flax
@needs_flax
def test_other_families_are_refused(tmp_path):
    config = transformers.GPTNeoXConfig(**SIZES, architectures=["GPTNeoXForCausalLM"])
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is of family gpt_neox; expected gpt2 or llama"):
        HfFlaxLM(str(tmp_path))


@pytest.mark.skipif(OLD, reason="transformers < 5 has the Flax classes")
def test_newer_transformers_are_refused_in_one_sentence(tmp_path):
    with pytest.raises(
        UserError, match=r"found transformers 5.*expected: pip install 'transformers<5'"
    ):
        HfFlaxLM(str(tmp_path))


@pytest.mark.fault
@pytest.mark.hf_flax
@needs_flax
@pytest.mark.parametrize(
    "changes",
    [
        {"rope_theta": 500_000.0},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"head_dim": 16},
        {"mlp_bias": True},
    ],
)
def test_settings_that_the_flax_classes_ignore_are_refused(tmp_path, changes):
    place = small(tmp_path, transformers.LlamaConfig(**CONFIGS["llama"], **changes))
    with pytest.raises(UserError, match="the Flax classes of transformers ignore"):
        HfFlaxLM(str(place))


@pytest.mark.hf_flax
@needs_flax
@pytest.mark.parametrize("name", CONFIGS)
def test_a_head_of_its_own_counts_more_than_a_setting_that_ties_it(tmp_path, name):
    place = small(tmp_path, config_of(name, tie_word_embeddings=False))
    settings = json.loads((place / "config.json").read_text(encoding="utf-8"))
    (place / "config.json").write_text(
        json.dumps(settings | {"tie_word_embeddings": True}), encoding="utf-8"
    )
    lm = HfFlaxLM(str(place))
    assert not lm.spec.tied
    head = load_file(place / "model.safetensors")["lm_head.weight"]
    np.testing.assert_array_equal(lm.unembedding(), head)


@pytest.mark.fault
@pytest.mark.hf_flax
@needs_flax
@pytest.mark.parametrize("name", CONFIGS)
def test_weights_in_the_classes_own_format_are_not_taken_for_those_of_the_files(tmp_path, name):
    place = small(tmp_path, config_of(name))
    with hf_flax._default_promotion():
        other = getattr(transformers, FAMILIES[name].model)(config_of(name), seed=7)
    other.save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "flax_model.msgpack", place)
    with pytest.raises(UserError, match="has not read tensor"):
        HfFlaxLM(str(place)).residuals(np.ones((1, 4), np.int32), (0,))


@pytest.mark.fault
@pytest.mark.hf_flax
@needs_flax
@pytest.mark.parametrize("name", CONFIGS)
def test_a_tensor_that_the_classes_do_not_find_is_not_started_at_random(tmp_path, name):
    place = small(tmp_path, config_of(name))
    tensors = load_file(place / "model.safetensors")
    first = next(key for key in tensors if ".0.mlp." in key and key.endswith("weight"))
    tensors[first.partition(".")[2]] = tensors.pop(first)  # the only one without the prefix
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="has not read tensor"):
        HfFlaxLM(str(place)).residuals(np.ones((1, 4), np.int32), (0,))


@pytest.mark.fault
@pytest.mark.hf_flax
@needs_flax
def test_later_tokens_and_ids_without_a_row_are_found(tmp_path, monkeypatch):
    lm = HfFlaxLM(str(small(tmp_path, config_of("gpt2"))))
    with pytest.raises(UserError, match=f"token id {VOCAB}"):
        lm.residuals(np.full((1, 4), VOCAB), (0,))
    monkeypatch.setattr(
        hf_flax,
        "_forward",
        lambda *_: (
            lambda params, tokens: (
                tokens.mean(1)[None, :, None, None] * jnp.ones((1, 1, tokens.shape[1], 32))
            )
        ),
    )
    with pytest.raises(UserError, match="later tokens"):
        lm.residuals(np.arange(8).reshape(2, 4), (0,))


def config_of(name, **changes):
    return transformers.AutoConfig.for_model(name, **CONFIGS[name], **changes)


def small(tmp_path, config):
    """The directory of a random model of ``config``."""
    config.bos_token_id = config.eos_token_id = 0
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "m")
    write_tokenizer(tmp_path / "m")
    return tmp_path / "m"
