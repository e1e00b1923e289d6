"""Patching a layer: against torch's own hooks in float64, by hand, and at the two ends."""

import json

import jax.numpy as jnp
import lm_fixtures as fx
import numpy as np
import patching_fixtures as pf
import pytest
import reference
import torch
import transformers

from vasae_jax.evaluation.patching import measure
from vasae_jax.evaluation.patching.measure import compare, effects, measure_lm, reference_of
from vasae_jax.evaluation.patching.model import WindowTable, open_model
from vasae_jax.extract.torch import TorchLM
from vasae_jax.lm import load_lm
from vasae_jax.utils.errors import UserError

D, K = 48, 8
CLOSE = {"rel": 2e-4, "abs": 1e-5}
"""float32 forwards of two libraries against each other."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return pf.make_home(tmp_path_factory.mktemp("home"), fx.llama_config())


@pytest.fixture(scope="module")
def lm(home):
    return open_model(str(home.directory), "auto", home.cache)


def hooked(model, tokens, rows, layer=pf.LAYER):
    """Torch's logits with ``rows`` [S, T, d] as the output of a block, float64."""
    new = torch.from_numpy(rows.astype(np.float32))
    handle = model.model.layers[layer].register_forward_hook(lambda *_: new)
    logits = fx.torch_logits(model, tokens).astype(np.float64)
    handle.remove()
    return logits


def log_softmax(logits):
    top = logits.max(axis=-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))


def twin(home, params, pre_bias):
    """Every figure by torch and NumPy in float64: ce, {(policy, patch): (ce, kl)}, lens shares."""
    model, tokens, real = home.torch_model, home.tokens, pf.real()
    keep = real & (np.arange(pf.LENGTH) > 0)[None, :]
    x = fx.torch_residuals(model, tokens)[pf.LAYER].astype(np.float64)
    x_hat, _, _ = reference.forward(params, x.reshape(-1, D), K, pre_bias)
    x_hat, mean = x_hat.reshape(x.shape), x[keep].mean(axis=0)
    own = log_softmax(fx.torch_logits(model, tokens).astype(np.float64))
    scored = [(s, t) for s, n in enumerate(pf.LENGTHS) for t in range(n - 1)]

    def cross_entropy(log_q):
        return np.mean([-log_q[s, t, tokens[s, t + 1]] for s, t in scored])

    found = {}
    for policy, chosen in (("every_row", real), ("unmasked_rows", keep)):
        for name, rows in (("sae", x_hat), ("mean", mean), ("zero", 0.0), ("identity", x)):
            log_q = log_softmax(hooked(model, tokens, np.where(chosen[..., None], rows, x)))
            kl = np.mean([np.exp(own[s, t]) @ (own[s, t] - log_q[s, t]) for s, t in scored])
            found[policy, name] = cross_entropy(log_q), kl
    top = [hooked(model, tokens, rows, 2).argmax(-1) for rows in (x, x_hat, x * 0 + mean)]
    lens = {
        (name, kind): np.mean((top[0] == other)[chosen])
        for name, chosen in (("unmasked", keep), ("all_rows", real))
        for kind, other in (("sae", top[1]), ("mean", top[2]))
    }
    return cross_entropy(own), found, lens


@pytest.mark.parametrize("pre_bias", [0.0, 1.0])
def test_every_figure_equals_the_float64_twin(home, lm, pre_bias):
    params = pf.random_params(D)
    found = measure_lm(pf.make_run(home, params, K, pre_bias), lm, "heldout", 100)
    ce, patched, lens = twin(home, params, pre_bias)
    assert found.ce == pytest.approx(ce, **CLOSE)
    assert (found.windows, found.positions) == (len(pf.LENGTHS), sum(pf.LENGTHS) - len(pf.LENGTHS))
    assert (found.rows, found.masked_rows) == (sum(pf.LENGTHS), len(pf.LENGTHS))
    for (policy, name), (own, kl) in patched.items():
        effect = found.patched[policy][name]
        assert (effect.ce, effect.kl) == (pytest.approx(own, **CLOSE), pytest.approx(kl, **CLOSE))
        zero, mean = (patched[policy, floor][0] for floor in ("zero", "mean"))
        share = 1 - (own - ce) / (zero - ce) if zero > ce else None
        assert effect.ce_recovered == pytest.approx(share, **CLOSE)
        share = 1 - (own - ce) / (mean - ce) if mean > ce else None
        assert effect.ce_recovered_over_mean == pytest.approx(share, **CLOSE)
    for (rows, kind), share in lens.items():
        assert getattr(found.logit_lens[rows], kind) == pytest.approx(share)


def test_the_baselines_are_the_two_ends(home, lm):
    found = measure_lm(pf.make_run(home, pf.random_params(D), K), lm, "heldout", 100)
    for patches in found.patched.values():
        assert patches["identity"].ce_recovered == pytest.approx(1, abs=1e-5)
        assert patches["identity"].kl == pytest.approx(0, abs=1e-6)
        assert patches["zero"].ce_recovered == 0
        assert patches["mean"].ce_recovered_over_mean == 0
        assert patches["sae"].kl > 0.01


def test_a_perfect_sae_recovers_all_and_a_dead_one_is_the_mean(home, lm):
    found = measure_lm(pf.make_run(home, pf.perfect_params(D), D), lm, "heldout", 100)
    for patches in found.patched.values():
        assert patches["sae"].ce_recovered == pytest.approx(1, abs=1e-5)
        assert patches["sae"].kl == pytest.approx(0, abs=1e-6)
    assert found.logit_lens["all_rows"].sae == 1
    x = home.cache.acts(pf.LAYER, "heldout").read(0, sum(pf.LENGTHS))
    keep = home.cache.column("positions", "heldout").read(0, len(x)) > 0
    dead = {**pf.random_params(D, bias=-1e6), "b_dec": x[keep].mean(axis=0)}
    found = measure_lm(pf.make_run(home, dead, K), lm, "heldout", 100)
    for patches in found.patched.values():
        assert patches["sae"].ce == pytest.approx(patches["mean"].ce, rel=1e-5)
        assert patches["sae"].ce_recovered_over_mean == pytest.approx(0, abs=1e-5)
    assert found.logit_lens["unmasked"].sae == found.logit_lens["unmasked"].mean


@pytest.mark.parametrize("at_once", [1, 3, 16])
def test_windows_at_once_change_nothing(home, lm, at_once):
    run = pf.make_run(home, pf.random_params(D), K)
    expected = measure_lm(run, lm, "heldout", 100)
    found = measure_lm(run, lm, "heldout", 100, at_once)
    assert (found.positions, found.logit_lens) == (expected.positions, expected.logit_lens)
    assert found.ce == pytest.approx(expected.ce, rel=1e-6)
    for policy, patches in expected.patched.items():
        for name, effect in patches.items():
            other = found.patched[policy][name]
            assert other.ce == pytest.approx(effect.ce, rel=1e-5)
            assert other.kl == pytest.approx(effect.kl, rel=1e-5, abs=1e-7)


def test_logits_of_windows_at_once_fit_the_budget(home, monkeypatch):
    window = 4 * pf.LENGTH * fx.VOCAB
    for budget, needed, expected in ((window * 5 + 1, 9, 5), (window - 1, 9, 1), (2**30, 9, 9)):
        monkeypatch.setattr(measure, "LOGIT_BYTES", budget)
        assert measure.windows_at_once(home.cache, needed) == expected


def test_fewer_windows_are_evenly_spaced(home, lm):
    found = measure_lm(pf.make_run(home, pf.random_params(D), K), lm, "heldout", 3)
    assert (found.windows, found.rows) == (3, pf.LENGTHS[0] + pf.LENGTHS[2] + pf.LENGTHS[4])


def test_cross_entropy_and_kl_by_hand():
    """P = (1/2, 1/2) and Q = (3/4, 1/4): CE of token 1 is ln 4, KL is ln(2/sqrt 3)."""
    own = jnp.zeros((1, 1, 2), jnp.float32)
    other = jnp.log(jnp.asarray([[[3.0, 1.0]]], jnp.float32))
    ce, kl = compare(reference_of(own), other, np.array([[1]], np.int32))
    assert float(ce[0, 0]) == pytest.approx(np.log(4))
    assert float(kl[0, 0]) == pytest.approx(np.log(2 / np.sqrt(3)))


def test_recovered_by_hand_and_where_it_has_no_meaning():
    """CE 2, the SAE 3, the mean 4, zero 6: 1 - 1/4, and over the mean 1 - 1/2."""
    means = {
        "sae": np.array([3.0, 1.0]),
        "mean": np.array([4.0, 2.0]),
        "zero": np.array([6.0, 4.0]),
    }
    found = effects(means, 2.0)["sae"]
    assert (found.ce_recovered, found.ce_recovered_over_mean) == (0.75, 0.5)
    found = effects(means, 5.0)["sae"]
    assert (found.ce_recovered, found.ce_recovered_over_mean) == (1 - (3 - 5) / (6 - 5), None)


def test_windows_by_hand():
    tokens, positions = np.array([5, 6, 7, 8, 9], np.int32), np.array([0, 1, 2, 0, 1])
    table = WindowTable(tokens, positions, positions > 0, 4)
    assert len(table) == 2
    found = table.take(np.array([1, 0]), 3)
    np.testing.assert_array_equal(found.tokens, [[8, 9, 0, 0], [5, 6, 7, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(found.scored, [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(found.targets[:2, :2], [[9, 0], [6, 7]])
    np.testing.assert_array_equal(found.keep[:2], [[0, 1, 0, 0], [0, 1, 1, 0]])
    numbers, places = table.locate(np.array([0, 2, 3, 4]))
    assert (numbers.tolist(), places.tolist()) == ([0, 0, 1, 1], [0, 2, 0, 1])


@pytest.mark.parametrize(("positions", "length"), [([1, 2, 0], 4), ([0, 1, 2], 2), ([], 4)])
def test_rows_that_are_not_windows_are_refused(positions, length):
    positions = np.array(positions, np.int32)
    with pytest.raises(UserError, match="begin at position 0"):
        WindowTable(positions, positions, positions > 0, length)


@pytest.mark.parametrize(
    ("config", "seed", "sentence"),
    [
        (fx.llama_config(), 1, "has weights of digest"),
        (fx.llama_config(vocab_size=385), 0, "has a vocabulary of 385; expected 384"),
        (fx.gpt2_config(), 0, "has rows of width 32; expected 48"),
    ],
)
def test_another_model_is_refused(home, tmp_path, config, seed, sentence):
    other = fx.save_model(fx.random_model(config, seed), tmp_path)
    with pytest.raises(UserError, match=sentence):
        open_model(str(other), "auto", home.cache)


def test_torch_gives_what_flax_gives(home, lm):
    other = open_model(str(home.directory), "torch", home.cache)
    assert other.computed == "torch float32"
    run = pf.make_run(home, pf.random_params(D), K, 1.0)
    expected, found = (measure_lm(run, model, "heldout", 100) for model in (lm, other))
    assert found.logit_lens == expected.logit_lens
    for policy, patches in expected.patched.items():
        for name, effect in patches.items():
            assert found.patched[policy][name].ce == pytest.approx(effect.ce, **CLOSE)
            assert found.patched[policy][name].kl == pytest.approx(effect.kl, **CLOSE)


OPT = transformers.OPTConfig(
    vocab_size=fx.VOCAB, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, ffn_dim=48,
    word_embed_proj_dim=32, max_position_embeddings=64, bos_token_id=0, eos_token_id=0,
)  # fmt: skip


def test_an_architecture_that_is_not_in_flax_runs_by_torch(tmp_path):
    home = pf.make_home(tmp_path, OPT, read=TorchLM)
    model = open_model(str(home.directory), "auto", home.cache)
    found = measure_lm(pf.make_run(home, pf.perfect_params(32), 32), model, "heldout", 4)
    assert found.computed == "torch float32"
    for patches in found.patched.values():
        for name in ("identity", "sae"):
            assert patches[name].kl == pytest.approx(0, abs=1e-6)
        assert patches["zero"].kl > 0.01
    with pytest.raises(UserError, match="OPTForCausalLM"):
        open_model(str(home.directory), "flax", home.cache)


def test_json_and_table_name_both_policies(home, lm):
    found = measure_lm(pf.make_run(home, pf.random_params(D), K), lm, "heldout", 2)
    value = json.loads(json.dumps(found.to_json()))
    assert set(value["patched"]) == {"every_row", "unmasked_rows"}
    assert set(value["logit_lens"]) == {"unmasked", "all_rows"}
    for words in ("every row replaced", "masked rows left untouched", "logit lens"):
        assert words in found.table()


def test_the_same_weights_are_known_again(home):
    assert load_lm(home.directory).source_digest == home.cache.manifest.model.source_digest
