"""A library of one's own, written and read: the example of docs/dev/extend.md."""

import json
from dataclasses import replace

import numpy as np
import plain_text_library
import pytest
from cache_fixtures import make_cache
from dictionary_fixtures import D, K, dictionary

import vasae_jax as vj
from vasae_jax.activations import JumpReLU
from vasae_jax.cli.main import main
from vasae_jax.interop.libraries import LAYOUTS, LIBRARIES, export_layout, read_foreign
from vasae_jax.sites import Site
from vasae_jax.utils.errors import UserError


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    library = plain_text_library
    monkeypatch.setitem(LIBRARIES, "plain_text", (library.read, [library.FILE]))
    monkeypatch.setitem(LAYOUTS, "plain_text", library.files)


def test_what_was_written_is_read_with_the_same_activations(tmp_path):
    ours = dictionary()
    export_layout(ours, "plain_text", tmp_path)
    theirs = read_foreign(str(tmp_path))  # recognised by its file
    assert (theirs.library, theirs.k, theirs.site) == ("plain_text", K, Site(3))
    x_BD = np.random.default_rng(0).normal(size=(50, D)).astype(np.float32)
    pre_BF = (x_BD - theirs.pre_bias * theirs.b_dec) @ theirs.W_enc.T + theirs.b_enc
    z_BF = theirs.activation.select_numpy(pre_BF, theirs.params)
    np.testing.assert_allclose(z_BF, ours.encode(x_BD), atol=1e-4)
    np.testing.assert_allclose(z_BF @ theirs.W_dec + theirs.b_dec, ours.decode(z_BF), atol=1e-4)


def test_what_it_cannot_hold_is_refused(tmp_path):
    other = replace(dictionary(), activation=JumpReLU())
    with pytest.raises(UserError, match="jumprelu"):
        export_layout(other, "plain_text", tmp_path)
    (tmp_path / plain_text_library.FILE).write_text(
        json.dumps({"encoder_bias": [0.0]}), encoding="utf-8"
    )
    with pytest.raises(UserError, match="encoder"):
        read_foreign(str(tmp_path))


def test_vasae_import_takes_it_in(tmp_path):
    cache = make_cache(tmp_path / "cache", rows=300, heldout=100)
    width = cache.manifest.d_model
    rng = np.random.default_rng(1)
    shapes = {"encoder": (24, width), "encoder_bias": 24, "decoder": (24, width)}
    shapes["decoder_bias"] = width
    weights = {name: rng.normal(size=shape).tolist() for name, shape in shapes.items()}
    record = {"model": cache.manifest.model.id, "site": "layers.1.resid_post", "k": 4}
    record["pre_bias"] = 1.0
    (tmp_path / "sae").mkdir()
    path = tmp_path / "sae" / plain_text_library.FILE
    path.write_text(json.dumps(record | weights), encoding="utf-8")
    out = tmp_path / "imported"
    assert main(["import", str(path.parent), f"--cache={cache.url}", f"--out={out}"]) == 0
    run = vj.open_trained(str(out))
    np.testing.assert_array_equal(run.params["W_dec"], np.float32(weights["decoder"]))
