"""``vasae import``, and every verb that then serves the folder as it serves a run's."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from cache_fixtures import make_cache
from foreign_fixtures import (
    F,
    K,
    slow,
    weights,
    write_dictionary_learning,
    write_gemma_scope,
    write_sae_lens,
    write_sparsify,
)

import vasae_jax as vj
from vasae_jax.cli.main import main
from vasae_jax.evaluation import evaluate as slots
from vasae_jax.stream.source import rows_in_order
from vasae_jax.training.run import open_trained
from vasae_jax.utils.errors import UserError


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return make_cache(tmp_path_factory.mktemp("of"), rows=600, heldout=300)


def jumping(tmp_path, cache, out="in", **given):
    """An import of a JumpReLU SAE, and its weights; about F / 2 features fire on a row."""
    w = weights(norms=True)
    folder = write_gemma_scope(tmp_path / "scope", w)
    assert main(asked(folder, cache, tmp_path / out, **given)) == 0
    return tmp_path / out, w


def asked(folder, cache, out, **given):
    extra = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    return ["import", str(folder), f"--cache={cache.url}", f"--out={out}", *extra]


def heldout(cache):
    """Held-out rows float32 of layer 3, and which of them count."""
    mask = open_mask()
    parts = list(rows_in_order(cache, 3, "heldout", mask, batch=100))
    real = np.concatenate([part.docs >= 0 for part in parts])
    x = np.concatenate([np.asarray(part.x, np.float32) for part in parts])[real]
    return x, np.concatenate([part.keep for part in parts])[real]


def open_mask():
    from vasae_jax.config import DataConfig

    return DataConfig().mask


@pytest.mark.parametrize("first", [4, 256])
def test_figures_of_thresholds_are_those_of_the_formula(tmp_path, cache, monkeypatch, first):
    monkeypatch.setattr(slots, "FIRST_MAX_ACTIVE", first)
    monkeypatch.setattr("vasae_jax.evaluation.run.BATCH", 10 * first)  # several batches, or one
    folder, w = jumping(tmp_path, cache)
    found = vj.evaluate(folder)
    x, keep = heldout(cache)
    for rows, figures in ((x[keep], found.unmasked), (x, found.all_rows)):
        z, x_hat = slow(w, rows, threshold=w["threshold"])
        spread = np.sum((rows - rows.mean(axis=0)) ** 2, dtype=np.float64)
        assert figures.fvu == pytest.approx(np.sum((rows - x_hat) ** 2) / spread, rel=1e-3)
        assert figures.l0 == pytest.approx((z > 0).sum(axis=1).mean(), rel=1e-3)
        np.testing.assert_allclose(figures.fire_rate, (z > 0).mean(axis=0), atol=2 / len(rows))
    assert found.unmasked.l0 > first or first == 256


def test_a_mesh_gives_the_figures_of_one_device(tmp_path, cache):
    from vasae_jax.config import MeshConfig
    from vasae_jax.distributed.mesh import make_mesh

    folder, _ = jumping(tmp_path, cache)
    one, many = (
        vj.evaluate(open_trained(str(folder), mesh=mesh))
        for mesh in (None, make_mesh(MeshConfig(data=2, model=2)))
    )
    assert many.unmasked.fvu == pytest.approx(one.unmasked.fvu, rel=1e-5)
    np.testing.assert_array_equal(many.unmasked.fire_rate, one.unmasked.fire_rate)


def test_name_eval_and_export_serve_an_import(tmp_path, cache, capsys):
    folder, w = jumping(tmp_path, cache)
    assert main(["name", str(folder), "--features=3", f"--out={tmp_path / 'names.txt'}"]) == 0
    assert main(["eval", str(folder)]) == 0
    assert "groups" not in json.loads((folder / "eval-heldout.json").read_text(encoding="utf-8"))
    assert main(["export", str(folder), f"--out={tmp_path / 'd' / 'dictionary.npz'}"]) == 0
    sae = vj.load(tmp_path / "d")
    x, _ = heldout(cache)
    z, x_hat = slow(w, x, threshold=w["threshold"])
    np.testing.assert_allclose(sae.encode(x), z, atol=5e-3)
    np.testing.assert_allclose(sae.decode(sae.encode(x)), x_hat, atol=5e-2, rtol=1e-3)
    assert sae.k == F
    assert str(tmp_path) not in json.dumps(sae.meta)
    imported = sae.meta["provenance"]["imported"]
    assert (imported["library"], imported["activation"]) == ("gemma_scope", "jumprelu")


@pytest.mark.parametrize("library", ["sae_lens", "sparsify", "dictionary_learning"])
def test_every_library_is_named_and_measured(tmp_path, cache, library, capsys):
    w, formula = weights(), {"k": K, "taken": 1.0}
    if library == "sae_lens":
        write_sae_lens(tmp_path / "sae", w, "topk")
    elif library == "sparsify":
        write_sparsify(tmp_path / "sae", w)
    else:
        pytest.importorskip("torch")
        write_dictionary_learning(tmp_path / "sae", w, "BatchTopKSAE")
        formula = {"threshold": np.float32(0.7), "taken": 1.0}
    assert main(asked(tmp_path / "sae", cache, tmp_path / "in", layer=3)) == 0
    assert f"{F} features of width 16 at layers.3.resid_post" in capsys.readouterr().out
    x, keep = heldout(cache)
    x_hat = slow(w, x[keep], **formula)[1]
    spread = np.sum((x[keep] - x[keep].mean(axis=0)) ** 2, dtype=np.float64)
    found = vj.evaluate(tmp_path / "in").unmasked
    assert found.fvu == pytest.approx(np.sum((x[keep] - x_hat) ** 2) / spread, rel=1e-3)


def test_a_report_shows_an_import(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(slots, "FIRST_MAX_ACTIVE", 8)
    folder, _ = jumping(tmp_path, cache)
    assert main(["report", str(folder), f"--out={tmp_path / 'page'}"]) == 0
    index = (tmp_path / "page" / "data" / "index.js").read_text(encoding="utf-8")
    assert '"made_by": "gemma_scope, jumprelu"' in index.replace('":"', '": "')


def test_a_source_that_disagrees_is_said(tmp_path, cache, capsys):
    named = {"metadata": {"hook_name": "blocks.1.hook_resid_post", "model_name": "gpt2-small"}}
    write_sae_lens(tmp_path / "sae", weights(), "topk", **named)
    assert main(asked(tmp_path / "sae", cache, tmp_path / "in", layer=3)) == 0
    said = capsys.readouterr().err
    assert all(
        value in said for value in ("layers.1.resid_post", "--layer 3", "gpt2-small", "tiny")
    )


def refused(capsys, arguments):
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("vasae: ") and said.count("\n") == 1
    return said


def test_what_does_not_fit_the_cache_is_one_sentence_and_nothing_is_written(
    tmp_path, cache, capsys
):
    out = tmp_path / "in"
    nameless = write_sparsify(tmp_path / "sae", weights())
    assert "--layer" in refused(capsys, asked(nameless, cache, out))
    assert "layers.2.resid_post" in refused(capsys, asked(nameless, cache, out, layer=2))
    wide = make_cache(tmp_path, d=8, rows=200, name="wide")
    assert "width 16" in refused(capsys, asked(nameless, wide, out, layer=3))
    assert not out.exists()


def test_an_import_that_is_there_is_kept_unless_asked(tmp_path, cache, capsys):
    folder, _ = jumping(tmp_path, cache)
    kept = (folder / "sae.npz").read_bytes()
    again = asked(write_sparsify(tmp_path / "other", weights(1)), cache, folder, layer=3)
    assert "--overwrite" in refused(capsys, again)
    assert (folder / "sae.npz").read_bytes() == kept
    assert main([*again, "--overwrite"]) == 0
    assert open_trained(str(folder)).config.sae.k == K


def test_a_damaged_import_is_named(tmp_path, cache):
    folder, _ = jumping(tmp_path, cache)
    data = bytearray((folder / "sae.npz").read_bytes())
    data[-100] ^= 1
    (folder / "sae.npz").write_bytes(data)
    with pytest.raises(UserError, match=r"imported\.json"):
        open_trained(str(folder))


def test_the_parameters_of_topk_have_no_threshold(tmp_path, cache):
    folder = write_sparsify(tmp_path / "layers.3", weights())
    assert main(asked(folder, cache, tmp_path / "in")) == 0
    run = open_trained(str(tmp_path / "in"))
    assert "threshold" not in run.params and isinstance(run.params["W_enc"], jnp.ndarray)


def test_a_topk_run_becomes_gemma_scopes_jumprelu_with_one_threshold(tmp_path, cache, capsys):
    folder = write_sparsify(tmp_path / "layers.3", weights())
    assert main(asked(folder, cache, tmp_path / "in")) == 0
    asked_for = ["export", str(tmp_path / "in"), "--layout=gemma_scope"]
    assert main([*asked_for, f"--out={tmp_path / 'scope'}"]) == 0
    assert "instead of the 5 largest" in capsys.readouterr().out
    with np.load(tmp_path / "scope" / "params.npz") as file:
        threshold = file["threshold"]
    train = rows_in_order(cache, 3, "train", open_mask(), batch=100)
    x = np.concatenate([np.asarray(b.x, np.float32)[b.keep & (b.docs >= 0)] for b in train])
    z, _ = slow(weights(), x, threshold=threshold[0], taken=1.0)
    assert (z > 0).sum(axis=1).mean() == pytest.approx(K, rel=1e-3)
    assert len(set(threshold.tolist())) == 1


@pytest.mark.fault
def test_overwriting_replaces_only_an_import(cache, tmp_path, capsys, monkeypatch):
    folder = write_sparsify(tmp_path / "layers.3", weights())
    out = tmp_path / "in"
    out.mkdir()
    (out / "sae.npz").write_text("precious", encoding="utf-8")
    again = [*asked(folder, cache, out), "--overwrite"]
    assert "holds no import" in refused(capsys, again)
    assert (out / "sae.npz").read_text(encoding="utf-8") == "precious"
    (out / "sae.npz").unlink()
    (out / "notes.md").write_text("precious", encoding="utf-8")
    for _ in range(2):
        assert main(again) == 0
    monkeypatch.chdir(out)
    assert "working directory" in refused(capsys, [*asked(folder, cache, "."), "--overwrite"])
    assert (out / "notes.md").read_text(encoding="utf-8") == "precious" and open_trained(
        str(out)
    ).step == 0


def test_push_without_its_layout_is_refused(tmp_path, capsys):
    asked_for = ["export", "any", f"--out={tmp_path / 'd.npz'}", "--push=me/mine"]
    assert "--push" in refused(capsys, asked_for)
    assert "--push" in refused(capsys, [*asked_for[:3], "--public"])
