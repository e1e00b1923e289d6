"""Every file of a model, given what Hypothesis made of it: UserErrors alone come out."""

import contextlib
import json

import lm_fixtures as fx
import pytest
from gguf_fixtures import write_gguf
from hypothesis import given
from mutations import damaged, documents, few

from vasae_jax.lm import load_lm
from vasae_jax.system.errors import UserError

pytestmark = pytest.mark.fault
HEAD = 3000
"""Bytes at the start of a weights file, where its header is: the rest is numbers."""


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
    head = damaged(content[:HEAD]).map(lambda found: found + content[HEAD:])
    changed = documents(json.loads(content)) if name == "config.json" else head
    attack(directory / name, changed, directory)


def test_a_gguf_file(model, tmp_path):
    file = write_gguf(model, tmp_path / "model.gguf")
    content = file.read_bytes()
    head = damaged(content[: 3 * HEAD]).map(lambda found: found + content[3 * HEAD :])
    attack(file, head | damaged(content), file)
