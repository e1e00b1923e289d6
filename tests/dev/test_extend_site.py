"""The example of docs/dev/extend.md: a second site needs a hook and one entry in SUPPORTED."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from vasae_jax import sites
from vasae_jax.cache import Cache, verify
from vasae_jax.cache.vocab import Vocab
from vasae_jax.config import Config, DataConfig, RunConfig, SAEConfig
from vasae_jax.evaluation.publish import provenance
from vasae_jax.extract import Settings, extract
from vasae_jax.sites import Site
from vasae_jax.training.loop import train
from vasae_jax.training.run import open_trained
from vasae_jax.utils.errors import UserError

D, VOCAB, LAYER = 16, 40, 1
SITE = Site(LAYER, "mlp_out")
TEXTS = [" ".join(str(7 * i + j * j) for j in range(60)) for i in range(20)]
SETTINGS = Settings(
    layers=(LAYER,),
    sites=("resid_post", "mlp_out"),
    context_length=16,
    heldout_share=0.2,
    chunk_rows=32,
    shard_rows=128,
)


class TwoSites:
    """A model of one table, with a hook for each of two sites."""

    id, revision, computed, source_digest = "two sites", None, "by hand", "0" * 64
    spec = SimpleNamespace(
        n_layers=2, d_model=D, vocab_size=VOCAB, context_length=32, tied=True, family="gpt2"
    )
    tokenizer = SimpleNamespace(
        add_bos=False,
        bos_id=None,
        chat=None,
        encode=lambda text, special=False: [ord(character) % VOCAB for character in text],
        split_special=lambda text: [text],
        vocab=lambda: Vocab("plain", tuple(f"t{token}" for token in range(VOCAB))),
    )

    def __init__(self):
        rng = np.random.default_rng(0)
        self.table = rng.standard_normal((VOCAB, D), np.float32)
        self.turned = self.table @ rng.standard_normal((D, D)).astype(np.float32)

    def residuals(self, tokens, sites):
        tables = {"resid_post": self.table, "mlp_out": self.turned}
        return jnp.stack([tables[site.kind][tokens] for site in sites])

    def embedding(self):
        return self.table

    def final_norm(self):
        return {"kind": "rmsnorm", "eps": 1e-5, "weight": [1.0] * D, "bias": None}


def config(place, **changes):
    data = DataConfig(
        cache=str(place / "cache"), layer=LAYER, site="mlp_out", batch=32, readers=2, max_norm=0.0
    )
    run = RunConfig(out=str(place / "run"), steps=3, log_every=1)
    return Config(data=data, sae=SAEConfig(d_sae=32, k=4), run=run)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A cache of both sites, and a run on the second."""
    place, model = tmp_path_factory.mktemp("sites"), TwoSites()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sites, "SUPPORTED", ("resid_post", "mlp_out"))
        extract(model, TEXTS, str(place / "cache"), SETTINGS, source="made up")
        train(config(place))
    return place


@pytest.fixture
def supported(monkeypatch):
    monkeypatch.setattr(sites, "SUPPORTED", ("resid_post", "mlp_out"))


def test_the_cache_has_the_rows_of_both_hooks(place, supported):
    manifest = json.loads((place / "cache/manifest.json").read_text(encoding="utf-8"))
    assert manifest["sites"] == ["layers.1.mlp_out", "layers.1.resid_post"]
    assert (place / "cache/train/acts/layers.1.mlp_out").is_dir()
    cache, model = Cache.open(str(place / "cache")), TwoSites()
    tokens = cache.column("tokens", "train").read(0, 50)
    for site, table in ((SITE, model.turned), (LAYER, model.table)):
        rows = cache.acts(site, "train").read(0, 50).astype(np.float32)
        np.testing.assert_allclose(rows, table[tokens], rtol=2**-8)
    assert verify(cache.url) == []


def test_the_run_reads_the_site_of_its_settings(place, supported):
    stored = json.loads((place / "run/config.json").read_text(encoding="utf-8"))
    data = stored.get("config", stored)["data"]
    assert (data["layer"], data["site"]) == (LAYER, "mlp_out")
    run = open_trained(str(place / "run"))
    assert run.config.data.input_site == SITE
    origin = provenance(run.cache, run.config.data.input_site)
    assert (origin["layer"], origin["site"]) == (LAYER, "mlp_out")


def test_anchors_are_kept_by_site(place):
    (folder,) = (place / "cache/anchors").iterdir()
    assert folder.name.startswith("layers.1.mlp_out-")
    assert json.loads((folder / "anchors.json").read_text(encoding="utf-8"))["of"]["site"] == str(
        SITE
    )


def test_it_is_refused_everywhere_where_it_is_not_registered(place, tmp_path):
    for refused in (
        lambda: extract(TwoSites(), TEXTS, str(tmp_path / "c"), SETTINGS, source="made up"),
        lambda: Cache.open(str(place / "cache")),
        lambda: train(config(Path(place))),
    ):
        with pytest.raises(UserError, match=r"layers\.1\.mlp_out; expected .* resid_post"):
            refused()
    assert not (tmp_path / "c").exists()
