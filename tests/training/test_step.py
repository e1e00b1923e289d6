"""One device: the step against NumPy float64, forward, every gradient and three Adam steps."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from step_fixtures import D, F, K, make_config, make_rows, start

from vasae_jax.activations import TopK
from vasae_jax.anchor.certificate import full_search
from vasae_jax.anchor.turns import TURNS, turn_at
from vasae_jax.anchor.whitening import whitened_anchors, within_cov_of
from vasae_jax.sae import ForwardConfig, decode, encode, forward, unit_rows
from vasae_jax.training.hparams import hparams_of, learning_rate
from vasae_jax.training.loss import Batch, loss_and_grads
from vasae_jax.training.step import DEAD_STEPS, dead, make_step, step_settings

# float32 products of length 64 to 70 against float64
TOLERANCE = {"rtol": 2e-5, "atol": 2e-6}


run_forward = jax.jit(forward, static_argnums=2)


def wide(params):
    return {name: np.asarray(value, np.float64) for name, value in params.items()}


def scrambled(state, seed=3):
    """Parameters with every term alive: biases away from zero, decoder norms away from one."""
    rng = np.random.default_rng(seed)
    noise = {n: rng.normal(size=v.shape) * 0.3 for n, v in state.params.items()}
    return {n: jnp.asarray(np.asarray(v) + noise[n], jnp.float32) for n, v in state.params.items()}


def local_loss(
    config, mesh, params, batch, context, *, nearest, rate, execution, turn_of_step=None
):
    specs = jax.sharding.PartitionSpec()
    settings = step_settings(config, F, execution)

    def local(params):
        turn = None
        if turn_of_step is not None:
            turn = turn_at(jnp.int32(turn_of_step), F, whole=execution == "dense")
        hparams = hparams_of(config, F)
        return loss_and_grads(
            params, batch, context, hparams, settings,
            nearest=nearest, firing_rate=rate, turn=turn,
        )  # fmt: skip

    run = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=specs, check_vma=False)
    stats, grads = jax.jit(run)(params)
    return float(stats.loss), grads


@pytest.mark.parametrize("execution", ["sparse", "dense"])
@pytest.mark.parametrize("pre_bias", [0.0, 1.0])
def test_forward_equals_reference(execution, pre_bias):
    x, _, anchors = make_rows()
    _, state, _ = start(make_config(), anchors)
    params = scrambled(state)
    expected, z, _ = reference.forward(wide(params), x[0].astype(np.float64), K, pre_bias)
    out = run_forward(params, jnp.asarray(x[0]), ForwardConfig(TopK(K), pre_bias, execution))
    np.testing.assert_allclose(out.x_hat, expected, **TOLERANCE)
    values, ids = encode(params, jnp.asarray(x[0]), TopK(K), pre_bias)
    np.testing.assert_allclose(values, np.take_along_axis(z, np.asarray(ids), 1), **TOLERANCE)
    np.testing.assert_allclose(decode(params, values, ids), expected, **TOLERANCE)


# The pull knows nothing of how the forward pass is executed.
@pytest.mark.parametrize(
    ("execution", "mode", "target_cosine", "pulls"),
    [
        ("dense", "nearest", 1.0, "decoder"),
        ("sparse", "nearest", 1.0, "decoder"),
        ("sparse", "nearest", 0.6, "decoder"),
        ("sparse", "logsumexp", 1.0, "decoder"),
        ("sparse", "softmax", 1.0, "decoder"),
        ("dense", "nearest", 1.0, "encoder"),
        ("sparse", "nearest", 0.6, "encoder"),
    ],
)
@pytest.mark.parametrize(
    ("loss", "pre_bias", "normalize_decoder"), [("variance", 1.0, True), ("mse", 0.0, False)]
)
def test_loss_and_every_gradient_equal_reference(
    execution, mode, target_cosine, pulls, loss, pre_bias, normalize_decoder
):
    pulled = "W_enc" if pulls == "encoder" else "W_dec"
    config = make_config(
        loss=loss, mode=mode, pre_bias=pre_bias, feature_weight="sqrt_rate",
        target_cosine=target_cosine, normalize_decoder=normalize_decoder,
        relative=normalize_decoder, pulls=pulls,
    )  # fmt: skip
    x, keep, anchors = make_rows()
    mesh, state, context = start(make_config(), anchors, variance=7.0)
    params = scrambled(state)
    if normalize_decoder:
        params["W_dec"] = unit_rows(params["W_dec"])
    rate = np.random.default_rng(5).random(F).astype(np.float32)
    cosines = reference.unit(np.asarray(params[pulled], np.float64)) @ anchors.T
    nearest = full_search(params[pulled], jnp.asarray(anchors)) if mode == "nearest" else None
    if nearest is not None:
        np.testing.assert_array_equal(nearest.anchor_near, cosines.argmax(axis=1))
    batch = Batch(jnp.asarray(x[0]), jnp.asarray(keep[0]))
    value, grads = local_loss(
        config, mesh, params, batch, context,
        nearest=nearest, rate=jnp.asarray(rate), execution=execution,
    )  # fmt: skip
    weight = np.sqrt(rate.astype(np.float64))
    unit = 7.0 if loss == "variance" else D
    expected, expected_grads = reference.loss_and_grads(
        wide(params), x[0].astype(np.float64), keep[0], k=K, pre_bias=pre_bias, unit_of_loss=unit,
        lam=config.anchor.weight, anchors=anchors.astype(np.float64), mode=mode,
        weight=weight / weight.sum(), target_cosine=target_cosine, relative=normalize_decoder,
        pulled=pulled,
    )  # fmt: skip
    if normalize_decoder:
        expected_grads["W_dec"] = reference.across(expected_grads["W_dec"], wide(params)["W_dec"])
    assert value == pytest.approx(expected, rel=1e-5)
    for name, grad in expected_grads.items():
        np.testing.assert_allclose(grads[name], grad, rtol=2e-4, atol=2e-6, err_msg=name)


@pytest.mark.parametrize(
    ("execution", "step"), [("sparse", None), ("sparse", 0), ("sparse", 13), ("dense", 13)]
)
def test_the_pull_in_the_measure_of_scatter_equals_its_definition(execution, step):
    """Cosines of W_enc R with unit rows, R written out, and their gradient in float64.

    Of all features, or of those alone whose turn it is at ``step``.
    """
    rng = np.random.default_rng(6)
    half = rng.normal(size=(D, D))
    within_cov = within_cov_of(half @ half.T)
    floor, basis, above = (np.asarray(part, np.float64) for part in within_cov)
    root = floor * np.eye(D) + (basis * above) @ basis.T
    x, keep, anchors = make_rows()
    found = {}
    for weight in (0.4, 0.0):
        config = make_config(pulls="encoder", target_cosine=0.6, relative=False)
        config = replace(config, anchor=replace(config.anchor, weight=weight))
        mesh, state, context = start(make_config(), anchors)
        params = scrambled(state)
        rows = np.asarray(params["W_enc"], np.float64) @ root
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        plain = reference.unit(np.asarray(params["W_enc"], np.float64)) @ anchors.T
        chosen = anchors[plain.argmax(axis=1)]
        near = reference.unit(chosen.astype(np.float64) @ root)
        found[weight] = local_loss(
            config, mesh, params, Batch(jnp.asarray(x[0]), jnp.asarray(keep[0])),
            context._replace(whitened=whitened_anchors(anchors, within_cov)),
            nearest=full_search(params["W_enc"], context.anchors),
            rate=jnp.ones(F), execution=execution, turn_of_step=step,
        )  # fmt: skip
    best = np.sum(rows / norms * near, axis=1)
    turn = np.ones(F, bool) if step is None else np.arange(F) % TURNS == step % TURNS
    assert 0 < (best[turn] < 0.6).sum() < turn.sum()
    pull = (near / norms - (best[:, None] / norms**2) * rows) @ root / turn.sum()
    pull[(best >= 0.6) | ~turn] = 0
    (with_pull, grads), (without, others) = found[0.4], found[0.0]
    expected = -0.4 * np.minimum(best[turn], 0.6).mean()
    assert with_pull - without == pytest.approx(expected, abs=2e-5)
    np.testing.assert_allclose(grads["W_enc"] - others["W_enc"], -0.4 * pull, atol=2e-6)
    np.testing.assert_array_equal(grads["W_dec"], others["W_dec"])


@pytest.mark.parametrize("method", ["plain", "soft", "tied"])
@pytest.mark.parametrize("execution", ["sparse", "dense"])
def test_three_adam_steps_of_the_published_recipe_equal_reference(method, execution):
    config = make_config(
        loss="mse", method=method, pre_bias=0.0, normalize_decoder=False, encoder_init="uniform",
        decoder_init="uniform", b_dec_init="uniform", d_sae=70 if method == "tied" else F,
    )  # fmt: skip
    x, keep, anchors = make_rows()
    mesh, state, context = start(config, anchors)
    params = wide(state.params)
    m = {n: np.zeros_like(v) for n, v in params.items()}
    v = {n: np.zeros_like(value) for n, value in params.items()}
    step = make_step(config, mesh, state, execution)
    lam = config.anchor.weight if method == "soft" else 0.0
    for t in range(3):
        x64 = x[t].astype(np.float64)
        loss, grads = reference.loss_and_grads(
            params, x64, keep[t], k=K, pre_bias=0.0, unit_of_loss=D, lam=lam,
            anchors=anchors.astype(np.float64), mode="nearest", weight=np.full(F, 1 / F),
        )  # fmt: skip
        new = reference.adam(params, grads, m, v, t + 1, config.optim)
        frozen = ("W_dec", "b_dec") if method == "tied" else ()
        params = {n: params[n] if n in frozen else value for n, value in new.items()}
        batch = Batch(jnp.asarray(x[t]), jnp.asarray(keep[t]))
        state, metrics = step(state, batch, context)
        assert float(metrics.loss) == pytest.approx(loss, rel=1e-5)
    for name, expected in params.items():
        # Adam divides by the gradient's own size, so tiny gradients lose digits: absolute.
        np.testing.assert_allclose(state.params[name], expected, atol=2e-5, err_msg=name)


def test_unit_rows_stay_unit_and_dead_rows_are_not_moved_by_reconstruction():
    config = make_config(method="plain")
    x, keep, anchors = make_rows()
    mesh, state, context = start(config, anchors)
    # The first feature cannot fire, so nothing may reach its decoder row.
    b_enc = state.params["b_enc"].at[0].set(-1e6)
    state = state._replace(params={**state.params, "b_enc": b_enc})
    before = np.asarray(state.params["W_dec"][0])
    step = make_step(config, mesh, state, "sparse")
    for t in range(3):
        state, _ = step(state, Batch(jnp.asarray(x[t]), jnp.asarray(keep[t])), context)
    norms = np.linalg.norm(np.asarray(state.params["W_dec"]), axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-6)
    np.testing.assert_allclose(state.params["W_dec"][0], before, atol=1e-6)
    assert int(state.counters.idle[0]) == 3


def test_a_feature_that_has_never_fired_is_dead_from_the_first_step():
    config = make_config(method="plain")
    x, keep, anchors = make_rows()
    mesh, state, context = start(config, anchors)
    state = state._replace(params={**state.params, "b_enc": jnp.full((F,), -1e6)})
    step = make_step(config, mesh, state, "sparse")
    state, metrics = step(state, Batch(jnp.asarray(x[0]), jnp.asarray(keep[0])), context)
    assert float(metrics.dead_fraction) == 1
    fired = state.counters._replace(idle=state.counters.idle.at[:3].set(0))
    assert int(dead(fired, state.step).sum()) == F - 3
    later = fired._replace(idle=jnp.full((F,), DEAD_STEPS - 1))
    assert not dead(later, jnp.int32(DEAD_STEPS + 50)).any()


def test_masked_rows_change_nothing():
    config = make_config()
    x, keep, anchors = make_rows()
    loud = np.where(keep[..., None], x, np.float32(50.0))
    ends = []
    for rows in (x, loud):
        mesh, state, context = start(config, anchors)
        step = make_step(config, mesh, state, "sparse")
        for t in range(3):
            state, _ = step(state, Batch(jnp.asarray(rows[t]), jnp.asarray(keep[t])), context)
        ends.append(jax.device_get(state.params))
    for name in ends[0]:
        np.testing.assert_array_equal(ends[0][name], ends[1][name], err_msg=name)


def test_every_buffer_of_the_state_is_donated():
    config = make_config(search_fraction=0.25)
    x, keep, anchors = make_rows()
    mesh, state, context = start(config, anchors)
    batch = Batch(jnp.asarray(x[0]), jnp.asarray(keep[0]))
    make_step(config, mesh, state, "sparse")(state, batch, context)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def test_bfloat16_compute_stays_near_float32():
    x, _, anchors = make_rows()
    _, state, _ = start(make_config(), anchors)
    full = run_forward(
        state.params, jnp.asarray(x[0]), ForwardConfig(TopK(K), 1.0, "dense", "float32")
    ).x_hat
    half = run_forward(
        state.params, jnp.asarray(x[0]), ForwardConfig(TopK(K), 1.0, "dense", "bfloat16")
    ).x_hat
    error = np.linalg.norm(full - half) / np.linalg.norm(full)
    assert 0 < error < 0.1  # winners near the cut may change places


def test_learning_rate_rises_stays_and_falls():
    base = make_config()
    optim = replace(base.optim, lr=1.0, warmup=0.1, decay=0.5)
    hparams = hparams_of(replace(base, optim=optim, run=replace(base.run, steps=100)), F)
    rates = [float(learning_rate(jnp.int32(t), hparams, 100)) for t in range(100)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10, rtol=1e-6)
    np.testing.assert_allclose(rates[10:51], 1.0)
    np.testing.assert_allclose(rates[50:], (100 - np.arange(50, 100)) / 50, rtol=1e-6)
