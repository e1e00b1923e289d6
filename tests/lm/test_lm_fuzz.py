"""Every file of a model, given what Hypothesis made of it: UserErrors alone come out."""

import io
import json

import lm_fixtures as fx
import pytest
import transformers
from gguf_fixtures import small_pieces, write_gguf
from hypothesis import strategies as st
from mutations import attack, damaged, documents_of, replaced, safetensors_of

from vasae_jax.extract.sources import HfModel
from vasae_jax.lm import load_lm
from vasae_jax.utils.safetensors_files import SafetensorsFile

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


@pytest.fixture(scope="module")
def model():
    return fx.random_model(fx.llama_config(num_hidden_layers=1))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # a rotary base of 0, or below
@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
)
def test_a_directory(model, tmp_path, name):
    directory = fx.save_model(model, tmp_path / "model")
    file = directory / name
    if name == "tokenizer_config.json":
        settings = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "add_bos_token": False}
        template = {"name": "default", "template": "{{ messages[0].content }}"}
        settings |= {"chat_template": [template], "model_max_length": 10**30}
        file.write_text(json.dumps(settings), encoding="utf-8")
    content = file.read_bytes()
    if name == "tokenizer.json":
        changed = damaged(content[:HEAD]).map(lambda head: head + content[HEAD:])
    else:
        changed = documents_of(file) if name.endswith("json") else safetensors_of(file)
    found = [replaced(file, ("chat_template",), [3])] if name == "tokenizer_config.json" else []
    attack(file, changed, lambda: read(directory), found)


def test_a_chat_template(model, tmp_path):
    directory = fx.save_model(model, tmp_path / "model")
    file = directory / "chat_template.jinja"
    file.write_text("{% for m in messages %}{{ m.content }}{% endfor %}", encoding="utf-8")

    def render():
        if (chat := load_lm(directory).tokenizer.chat) is not None:
            chat.render([{"role": "user", "content": "hello"}])

    attack(file, damaged(file.read_bytes()) | st.binary(max_size=30), render, [b"\xff"])


def test_an_index_of_shards(model, tmp_path):
    directory = fx.save_model(model, tmp_path / "model")
    (directory / "model.safetensors").rename(directory / "part.safetensors")
    names = SafetensorsFile(directory / "part.safetensors").types
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "part.safetensors")}
    file = directory / "model.safetensors.index.json"
    file.write_text(json.dumps(index), encoding="utf-8")
    attack(file, documents_of(file), lambda: read(directory))


def test_weights_of_torch(model, tmp_path):
    torch = pytest.importorskip("torch")
    directory = fx.save_model(model, tmp_path / "model")
    (directory / "model.safetensors").unlink()
    file, sound = directory / "pytorch_model.bin", model.state_dict()
    torch.save(sound, file)
    kinds = ["float8_e5m2", "complex64", "int8", "float16"]

    def changed(name, kind):
        out = io.BytesIO()
        torch.save(sound | {name: sound[name].to(getattr(torch, kind))}, out)
        return out.getvalue()

    types = st.builds(changed, st.sampled_from(list(sound)), st.sampled_from(kinds))
    attack(file, types | damaged(file.read_bytes()), lambda: read(directory))


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
    attack(file, head | damaged(content), lambda: read(file))


@pytest.mark.filterwarnings("ignore")  # transformers', of settings that it does not expect
def test_the_settings_of_a_model_that_transformers_runs(model, tmp_path):
    directory = fx.save_model(model, tmp_path / "model")
    file = directory / "config.json"
    own_code = json.loads(file.read_bytes()) | {"auto_map": {"AutoConfig": "own.Config"}}
    file.write_text(json.dumps(own_code), encoding="utf-8")

    def read_sizes():
        spec = HfModel(str(directory), "by PyTorch").spec
        sizes = (spec.n_layers, spec.d_model, spec.vocab_size)
        assert all(type(size) is int and size > 0 for size in sizes)

    attack(file, documents_of(file), read_sizes, [replaced(file, ("architectures",), 3)])
