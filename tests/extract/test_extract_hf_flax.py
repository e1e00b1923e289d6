"""The legacy Flax classes against torch, the last layer and a tied head included."""

import numpy as np
import pytest
import torch
import transformers
from lm_fixtures import VOCAB, write_tokenizer

from vasae_jax.cache import Cache
from vasae_jax.extract import Settings, extract
from vasae_jax.extract.hf_flax import HfFlaxLM
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
