"""``vasae extract``: the verb makes the cache that the tools make, and says what its text lacks."""

import pytest
from lm_fixtures import llama_config, random_model, save_model

from vasae_jax.cache import Cache
from vasae_jax.cli.main import main
from vasae_jax.extract.backends import load_model, make_mesh
from vasae_jax.utils.errors import UserError


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small Llama's directory."""
    directory = tmp_path_factory.mktemp("model")
    save_model(random_model(llama_config()), directory)
    return directory


def extract(model, tmp_path, documents, *more):
    """A cache of ``documents`` short texts, by the verb."""
    texts = tmp_path / "texts"
    texts.mkdir()
    for i in range(documents):
        (texts / f"{i}.txt").write_text(f"Text {i} says {i * i}. " * 4, encoding="utf-8")
    out = tmp_path / "cache"
    given = [f"--model={model}", f"--text={texts}", "--layers=0,2", f"--out={out}", *more]
    assert main(["extract", *given, "--context-length=16", "--chunk-rows=64"]) == 0
    return Cache.open(str(out))


def test_few_held_out_documents_are_said(model, tmp_path, capsys):
    cache = extract(model, tmp_path, 8, "--heldout-share=0.4")
    documents = cache.manifest.splits["heldout"].documents
    assert 0 < documents < 10
    assert f"only {documents} held-out documents" in capsys.readouterr().out


def test_enough_held_out_documents_are_not_remarked_on(model, tmp_path, capsys):
    cache = extract(model, tmp_path, 40, "--heldout-share=0.5")
    assert cache.manifest.splits["heldout"].documents >= 10
    assert "only" not in capsys.readouterr().out


def test_a_model_that_flax_lacks_is_left_to_torch(tmp_path):
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(
        vocab_size=384, hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2,
        word_embed_proj_dim=16, max_position_embeddings=64,
    )  # fmt: skip
    save_model(OPTForCausalLM(config), tmp_path)
    assert type(load_model(str(tmp_path), "auto", "float32")).__name__ == "TorchLM"
    with pytest.raises(UserError, match="--mesh"):
        load_model(str(tmp_path), "auto", "float32", mesh=make_mesh("2,1"))
    with pytest.raises(UserError, match="OPTForCausalLM"):
        load_model(str(tmp_path), "flax", "float32")
