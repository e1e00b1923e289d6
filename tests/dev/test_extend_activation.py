"""An activation of one's own, from training to NumPy: the example of docs/dev/extend.md."""

import json
from dataclasses import replace

import numpy as np
import pytest
from cache_fixtures import make_cache
from soft_threshold import SoftThreshold

import vasae_jax as vj
from vasae_jax.activations import ACTIVATIONS
from vasae_jax.cli.main import main
from vasae_jax.config import (
    AnchorConfig,
    Config,
    DataConfig,
    MeshConfig,
    OptimConfig,
    RunConfig,
    SAEConfig,
)
from vasae_jax.interop.libraries import export_layout
from vasae_jax.sae import encode
from vasae_jax.training.loop import train_pack
from vasae_jax.utils.errors import UserError


@pytest.fixture(scope="module", autouse=True)
def registered():
    ACTIVATIONS["soft_threshold"] = SoftThreshold
    yield
    del ACTIVATIONS["soft_threshold"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return make_cache(tmp_path_factory.mktemp("cache"), rows=400, heldout=100).url


def config_for(cache, out, mesh=(1, 1), **sae):
    settings = {"method": "plain", "d_sae": 32, "k": 8, "activation": "soft_threshold", **sae}
    return Config(
        data=DataConfig(cache=cache, layer=1, batch=32, readers=4, shuffle_chunks=2),
        sae=SAEConfig(**settings),
        anchor=AnchorConfig(kind="embedding"),
        optim=OptimConfig(lr=3e-3, warmup=0.0, decay=0.0),
        mesh=MeshConfig(*mesh),
        run=RunConfig(out=str(out), steps=12, log_every=3),
    )


@pytest.fixture(scope="module")
def trained(cache, tmp_path_factory):
    return vj.train(config_for(cache, tmp_path_factory.mktemp("runs") / "one"))


def test_a_mesh_trains_what_one_device_does(cache, trained, tmp_path):
    lines = [
        json.loads(line)
        for line in (trained / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert lines[-1]["fvu"] < lines[0]["fvu"] and lines[-1]["l0"] > 0
    many = vj.open_trained(str(vj.train(config_for(cache, tmp_path / "many", (2, 4))))).params
    for name, value in vj.open_trained(str(trained)).params.items():
        np.testing.assert_allclose(many[name], value, rtol=1e-4, atol=5e-6, err_msg=name)


def test_evaluation_measures_what_fires(trained):
    run = vj.open_trained(str(trained))
    found = vj.evaluate(run)
    rows = run.cache.acts(1, "heldout").read(0, 100).astype(np.float64)
    W_enc, b_enc, W_dec, b_dec = (
        np.asarray(run.params[name], np.float64) for name in ("W_enc", "b_enc", "W_dec", "b_dec")
    )
    z = np.maximum((rows - b_dec) @ W_enc.T + b_enc - 0.5, 0)
    assert found.all_rows.l0 == pytest.approx((z > 0).sum(axis=1).mean(), rel=1e-6)
    error = np.square(rows - z @ W_dec - b_dec).sum()
    spread = np.square(rows - rows.mean(axis=0)).sum()
    assert found.all_rows.fvu == pytest.approx(error / spread, rel=1e-4)


def test_the_exported_dictionary_computes_the_same_with_numpy(trained, tmp_path):
    assert main(["export", str(trained), f"--out={tmp_path / 'dictionary.npz'}"]) == 0
    sae, run = vj.load(tmp_path), vj.open_trained(str(trained))
    assert sae.activation == SoftThreshold()
    rows = run.cache.acts(1, "heldout").read(0, 100).astype(np.float32)
    values, ids = (np.asarray(a) for a in encode(run.params, rows, sae.activation, sae.pre_bias))
    z = np.zeros((len(rows), sae.d_sae), np.float32)
    np.put_along_axis(z, ids, values, axis=1)
    np.testing.assert_allclose(sae.encode(rows), z, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="soft_threshold"):
        export_layout(sae, "sae_lens", tmp_path / "lens")


def test_a_pack_of_runs_trains_with_it_too(cache, trained, tmp_path):
    base = config_for(cache, tmp_path / "a")
    base = replace(base, data=replace(base.data, seed=0))
    other = replace(base, optim=replace(base.optim, lr=1e-3))
    other = replace(other, run=replace(other.run, out=str(tmp_path / "b")))
    train_pack([base, other])
    alone = vj.open_trained(str(trained)).params
    packed = vj.open_trained(str(tmp_path / "a")).params
    for name, value in alone.items():
        np.testing.assert_array_equal(packed[name], value)


@pytest.mark.parametrize("name", ["jumprelu", "relu", "gelu"])
def test_what_cannot_be_trained_is_refused(cache, tmp_path, name):
    with pytest.raises(UserError, match=name):
        vj.train(config_for(cache, tmp_path / "run", activation=name))
