"""SAEs of other libraries, and imports of them, with other weights, types and bytes."""

import io
import json

import numpy as np
import pytest
from foreign_fixtures import (
    weights,
    write_dictionary_learning,
    write_gemma_scope,
    write_sae_lens,
    write_sparsify,
)
from hypothesis import strategies as st
from mutations import arrays, attack, damaged, documents_of, npz, safetensors_of

from vasae_jax.interop.libraries import read_foreign
from vasae_jax.interop.record import Imported, read_import, write_import
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import sha256_file

pytestmark = pytest.mark.fault
KINDS = (
    *("AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE"),
    *("AutoEncoder", "AutoEncoderNew", "JumpReluAutoEncoder"),
)
CHANGES = {
    "a parameter": lambda torch, t: torch.nn.Parameter(t, requires_grad=t.is_floating_point()),
    "half": lambda torch, t: t.half(),
    "negated": lambda torch, t: torch._neg_view(t),
    "complex": lambda torch, t: t.to(torch.complex64),
    "8 bits": lambda torch, t: t.to(torch.float8_e4m3fn),
    "whole": lambda torch, t: t.to(torch.int8),
    "sparse": lambda torch, t: t.to_sparse(),
    "rows": lambda torch, t: t.reshape(1, -1).to_sparse_csr(),
    "quantised": lambda torch, t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    "nested": lambda torch, t: torch.nested.nested_tensor([torch.zeros(3), torch.zeros(2)]),
    "no numbers": lambda torch, t: t.to("meta"),
    "a number": lambda torch, t: 3,
    "a list": lambda torch, t: [t],
}
"""Ways to store a tensor of ``ae.pt``."""
RIGHT = ("a parameter", "half", "negated")
"""Those that are the tensor itself."""


def read(folder):
    """An SAE that could be read is whole."""
    found = read_foreign(str(folder))
    assert found.W_enc.shape == found.W_dec.shape and 1 <= found.k <= len(found.W_dec)
    assert all(np.isfinite(value).all() for value in found.params.values())


@pytest.fixture(params=["sae_lens", "sparsify", "gemma_scope"])
def folder(request, tmp_path):
    write = {
        "sae_lens": lambda: write_sae_lens(tmp_path, weights(), "topk"),
        "sparsify": lambda: write_sparsify(tmp_path, weights()),
        "gemma_scope": lambda: write_gemma_scope(tmp_path, weights(), "safetensors"),
    }
    return write[request.param]()


def test_safetensors(folder):
    (file,) = folder.glob("*.safetensors")
    attack(file, safetensors_of(file), lambda: read(folder))


def test_settings(tmp_path):
    for name, folder in (
        ("cfg.json", write_sae_lens(tmp_path / "lens", weights(), "jumprelu")),
        ("cfg.json", write_sparsify(tmp_path / "sparsify", weights())),
        ("config.json", write_dictionary_learning(tmp_path / "dl", weights(), KINDS[0])),
    ):
        attack(folder / name, documents_of(folder / name), lambda: read(folder))  # noqa: B023


def test_npz(tmp_path):
    folder = write_gemma_scope(tmp_path, weights())
    file = folder / "params.npz"
    changed = arrays(dict(np.load(file))).map(npz) | damaged(file.read_bytes())
    attack(file, changed, lambda: read(folder))


def torch_states(torch, file):
    """``ae.pt`` with one tensor changed, and with changes to its bytes."""
    sound = torch.load(file, weights_only=True)

    def changed(name, how):
        out = io.BytesIO()
        torch.save(sound | {name: CHANGES[how](torch, sound[name].float())}, out)
        return out.getvalue()

    def shaped(name, values):
        out = io.BytesIO()
        numbers = {key: each for key, each in values.items() if each.dtype.kind in "fciub"}
        torch.save({key: torch.from_numpy(each.copy()) for key, each in numbers.items()}, out)
        return out.getvalue()

    plain = {name: tensor.numpy() for name, tensor in sound.items()}
    types = st.builds(changed, st.sampled_from(list(sound)), st.sampled_from(list(CHANGES)))
    return types | st.builds(shaped, st.just(""), arrays(plain)) | damaged(file.read_bytes())


@pytest.mark.filterwarnings("ignore")  # torch's, of sparse and nested tensors
@pytest.mark.parametrize("kind", KINDS)
def test_torch(tmp_path, kind):
    torch = pytest.importorskip("torch")
    folder = write_dictionary_learning(tmp_path, weights(), kind)
    file = folder / "ae.pt"
    state = torch.load(file, weights_only=True)
    found = []
    for shape in ((), (1,), (0, 3)):
        out = io.BytesIO()
        names = [name for name in state if name in ("decoder.weight", "W_dec")]
        torch.save(state | dict.fromkeys(names, torch.zeros(shape)), out)
        found.append(out.getvalue())
    out = io.BytesIO()
    torch.save(
        {name: tensor.T if tensor.ndim == 2 else tensor for name, tensor in state.items()}, out
    )
    found.append(out.getvalue())
    attack(file, torch_states(torch, file), lambda: read(folder), found)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", CHANGES)
def test_how_a_tensor_is_stored(tmp_path, how):
    """A parameter is its tensor; what is no plain number is refused, and no part of it dropped."""
    torch = pytest.importorskip("torch")
    folder = write_dictionary_learning(tmp_path, weights(), "AutoEncoderTopK")
    before, state = read_foreign(str(folder)), torch.load(folder / "ae.pt", weights_only=True)
    state["b_dec"] = CHANGES[how](torch, state["b_dec"])
    torch.save(state, folder / "ae.pt")
    if how not in RIGHT:
        with pytest.raises(UserError, match="b_dec"):
            read_foreign(str(folder))
        return
    tolerance = 1e-3 if how == "half" else 0
    expected = -before.b_dec if how == "negated" else before.b_dec
    np.testing.assert_allclose(read_foreign(str(folder)).b_dec, expected, rtol=tolerance)


@pytest.mark.parametrize("kind", ["complex64", "int8", "bool", "float8_e4m3fn", "uint16"])
def test_types_in_safetensors_that_would_lose_a_part(tmp_path, kind):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    folder = write_sae_lens(tmp_path, weights(), "topk")
    file = folder / "sae_weights.safetensors"
    state = load_file(file)
    save_file(state | {"b_dec": state["b_dec"].to(getattr(torch, kind))}, file)
    with pytest.raises(UserError, match="b_dec"):
        read_foreign(str(folder))


@pytest.mark.parametrize("kind", ["c8", "i1", "?", "M8[s]", "f16"])
def test_types_in_npz_that_would_lose_a_part(tmp_path, kind):
    folder = write_gemma_scope(tmp_path, weights())
    sound = dict(np.load(folder / "params.npz"))
    changed = {**sound, "b_dec": np.zeros(sound["b_dec"].shape, kind)}
    (folder / "params.npz").write_bytes(npz(changed))
    with pytest.raises(UserError, match="b_dec"):
        read_foreign(str(folder))


@pytest.fixture
def imported(tmp_path):
    sae = read_foreign(str(write_sparsify(tmp_path / "source", weights())))
    origin = Imported("source", "cache", "0" * 64, 3, "resid_post", 1, 3.0)
    write_import(tmp_path / "import", sae, origin, overwrite=False)
    return tmp_path / "import"


def test_an_import(imported):
    file = imported / "imported.json"
    attack(file, documents_of(file), lambda: read_import(imported))


def test_the_weights_of_an_import(imported):
    file, meta = imported / "sae.npz", imported / "imported.json"

    def sealed():
        record = json.loads(meta.read_bytes()) | {"sha256": sha256_file(file)}
        meta.write_text(json.dumps(record), encoding="utf-8")
        read_import(imported)

    changed = arrays(dict(np.load(file))).map(npz) | damaged(file.read_bytes())
    attack(file, changed, sealed, [b""])
