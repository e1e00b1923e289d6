"""Every file of a model, given what Hypothesis made of it: UserErrors alone come out."""

import contextlib
import json

import lm_fixtures as fx
import pytest
import transformers
from gguf_fixtures import small_pieces, write_gguf
from hypothesis import given
from mutations import damaged, documents, few

from vasae_jax.lm import load_lm
from vasae_jax.utils.errors import UserError

pytestmark = pytest.mark.fault
HEAD = 3000
"""Bytes at the start of a weights file, where its header is: the rest is numbers."""
SHAPE = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings",
)  # fmt: skip


def read(source):
    lm = load_lm(source)
    lm.embedding()
    lm.tokenizer.encode("hello wörld")
    lm.tokenizer.vocab()


def attack(file, contents, source):
    @few
    @given(contents)
    def attempt(content):
        file.write_bytes(content)
        with contextlib.suppress(UserError):
            read(source)

    read(source)
    attempt()


@pytest.fixture(scope="module")
def model():
    return fx.random_model(fx.llama_config(num_hidden_layers=1))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # a rotary base of 0, or below
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_directory(model, tmp_path, name):
    directory = fx.save_model(model, tmp_path / "model")
    content = (directory / name).read_bytes()
    head = damaged(content[:HEAD]).map(lambda changed: changed + content[HEAD:])
    changed = documents(json.loads(content)) if name == "config.json" else head
    attack(directory / name, changed, directory)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # a rotary base of 0, or below
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_gguf_file(model, tmp_path, family):
    if family == "llama":
        file = write_gguf(model, tmp_path / "model.gguf")
    else:
        config = fx.llama_config(num_hidden_layers=1, vocab_size=1024).to_dict()
        shape = {key: config[key] for key in SHAPE}
        gemma = fx.random_model(transformers.Gemma3TextConfig(**shape, pad_token_id=0))
        file = write_gguf(gemma, tmp_path / "model.gguf", pieces=small_pieces())
    content = file.read_bytes()
    head = damaged(content[: 3 * HEAD]).map(lambda changed: changed + content[3 * HEAD :])
    attack(file, head | damaged(content), file)
