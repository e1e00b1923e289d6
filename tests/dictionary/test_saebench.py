"""SAEBench's core evaluation on the SAELens layout, against the same figures in float64."""

import numpy as np
import pytest
from dictionary_fixtures import D, K, V, dictionary

from vasae_jax.interop.libraries import export_layout

HOOK = "blocks.3.hook_resid_post"
WINDOWS, T = 8, 16


def small_model(lens, torch):
    """A random model of four blocks, as wide as the dictionary."""
    torch.manual_seed(0)
    config = lens.HookedTransformerConfig(
        n_layers=4, d_model=D, n_ctx=T, d_head=2, n_heads=3, d_mlp=12, d_vocab=V, act_fn="gelu",
        normalization_type="LN", device="cpu", model_name="tiny", init_weights=True, seed=0,
    )  # fmt: skip
    return lens.HookedTransformer(config)


@pytest.mark.parametrize("thresholds", [False, True])
def test_core_evaluation_of_an_export(tmp_path, thresholds):
    core = pytest.importorskip("sae_bench.evals.core.main")
    lens, torch = pytest.importorskip("transformer_lens"), pytest.importorskip("torch")
    import datasets
    from sae_bench.sae_bench_utils.general_utils import _standardize_sae_cfg
    from sae_lens import SAE
    from sae_lens.training.activations_store import ActivationsStore

    found = dictionary(thresholds=thresholds)
    export_layout(found, "sae_lens", tmp_path)
    sae = SAE.load_from_disk(str(tmp_path))
    sae.cfg.metadata.context_size, sae.cfg.metadata.prepend_bos = T, False
    _standardize_sae_cfg(sae.cfg)
    model = small_model(lens, torch)
    tokens = np.random.default_rng(0).integers(0, V, (WINDOWS, T))
    store = ActivationsStore.from_sae(
        model, sae, datasets.Dataset.from_dict({"input_ids": tokens.tolist()}), context_size=T,
        streaming=False, store_batch_size_prompts=WINDOWS, n_batches_in_buffer=2,
    )  # fmt: skip
    asked = core.CoreEvalConfig(
        model_name="tiny", batch_size_prompts=WINDOWS, n_eval_reconstruction_batches=1,
        n_eval_sparsity_variance_batches=1, compute_kl=True, compute_ce_loss=True,
        compute_sparsity_metrics=True, compute_variance_metrics=True, context_size=T,
    )  # fmt: skip
    figures, _ = core.run_evals(sae, store, model, asked)

    with torch.no_grad():
        _, kept = model.run_with_cache(torch.from_numpy(tokens), names_filter=HOOK)
    x = kept[HOOK].numpy().reshape(-1, D).astype(np.float64)
    z = found.encode(x)
    x_hat = found.decode(z).astype(np.float64)
    assert figures["sparsity"]["l0"] == pytest.approx((z > 0).sum(axis=1).mean(), rel=1e-5)
    assert thresholds or figures["sparsity"]["l0"] <= K
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(x_hat, axis=1)
    cosine = ((x * x_hat).sum(axis=1) / norms).mean()
    assert figures["reconstruction_quality"]["cossim"] == pytest.approx(cosine, abs=1e-4)
    error = ((x - x_hat) ** 2).sum(axis=1).mean() / len(x)
    assert figures["reconstruction_quality"]["mse"] == pytest.approx(error, rel=1e-4)

    def patched(rows, hook):
        return torch.from_numpy(found.decode(found.encode(rows.numpy())))

    with torch.no_grad():
        loss = model.run_with_hooks(
            torch.from_numpy(tokens), return_type="loss", fwd_hooks=[(HOOK, patched)]
        )
    behaviour = figures["model_performance_preservation"]
    assert behaviour["ce_loss_with_sae"] == pytest.approx(float(loss), abs=1e-3)
