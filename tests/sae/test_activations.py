"""Activations: JAX and NumPy select the same, on every mesh, and their parameters are trained."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from step_fixtures import D, F, make_config, run_steps

from vasae_jax.activations import (
    ACTIVATIONS,
    Activation,
    JumpReLU,
    ReLU,
    TopK,
    activation_of,
    from_json,
)
from vasae_jax.config import MeshConfig, SAEConfig
from vasae_jax.distributed.mesh import make_mesh
from vasae_jax.sae import encode, reconstruct
from vasae_jax.sae.module import SAE
from vasae_jax.utils.errors import UserError

ALL = [TopK(5), TopK(64), JumpReLU(), ReLU()]
ROWS = 48


def preactivations():
    """Small whole numbers, so that many are equal."""
    return np.random.default_rng(0).integers(-6, 7, (ROWS, 64)).astype(np.float32)


def extra_params():
    return {"threshold": np.linspace(-2, 4, 64).astype(np.float32)}


@pytest.mark.parametrize("activation", ALL, ids=repr)
@pytest.mark.parametrize("mesh", [(1, 1), (2, 4)])
def test_jax_selects_what_numpy_does(activation, mesh):
    pre, params = preactivations(), extra_params()
    run = jax.shard_map(
        lambda pre, params: activation.select(pre, params, "model"),
        mesh=make_mesh(MeshConfig(*mesh)),
        in_specs=(P("data", "model"), P("model")),
        out_specs=P("data", "model"),
        check_vma=False,
    )
    expected = activation.select_numpy(pre.astype(np.float64), params)
    assert expected.dtype == np.float64
    np.testing.assert_array_equal(jax.jit(run)(pre, params), expected)
    most = activation.max_active(64)
    assert most is None or (expected > 0).sum(axis=1).max() <= most


@pytest.mark.parametrize("activation", ALL, ids=repr)
def test_encode_and_reconstruct_go_by_it(activation):
    rng = np.random.default_rng(1)
    shapes = {"W_enc": (64, D), "b_enc": (64,), "W_dec": (64, D), "b_dec": (D,)}
    wide = {name: rng.normal(size=shape) for name, shape in shapes.items()} | extra_params()
    params = {name: jnp.asarray(value, jnp.float32) for name, value in wide.items()}
    x = rng.normal(size=(ROWS, D))
    z = activation.select_numpy((x - wide["b_dec"]) @ wide["W_enc"].T + wide["b_enc"], wide)
    values, ids = encode(params, jnp.asarray(x, jnp.float32), activation, 1.0)
    found = np.zeros_like(z)
    np.put_along_axis(found, np.asarray(ids), np.asarray(values), axis=1)
    np.testing.assert_allclose(found, z, rtol=1e-4, atol=1e-4)
    x_hat = reconstruct(params, jnp.asarray(x, jnp.float32), activation, 1.0)
    np.testing.assert_allclose(x_hat, z @ wide["W_dec"] + wide["b_dec"], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("activation", ALL, ids=repr)
def test_settings_and_json_give_it_back(activation):
    k = getattr(activation, "k", 7)
    assert activation_of(SAEConfig(activation=activation.kind, k=k)) == activation
    assert from_json(activation.to_json()) == activation


def test_an_unknown_name_is_refused():
    with pytest.raises(UserError, match="gelu"):
        activation_of(SAEConfig(activation="gelu"))


@dataclass(frozen=True)
class Learned(Activation):
    """A soft threshold that is learned, with an L1 penalty."""

    kind = "learned"
    extra_params = ("t",)

    def select(self, pre_BF, params, axis):
        return jax.nn.relu(pre_BF - params["t"][None, :])

    def select_numpy(self, pre_BF, params):
        return np.maximum(pre_BF - params["t"], 0)

    def init_params(self, d_sae):
        return {"t": np.full(d_sae, 0.1, np.float32)}

    def extra_loss(self, pre_BF, z_BF, params):
        return 0.01 * jnp.sum(z_BF, axis=1)


@pytest.fixture
def learned(monkeypatch):
    monkeypatch.setitem(ACTIVATIONS, "learned", Learned)


@pytest.mark.parametrize("execution", ["sparse", "dense"])
def test_its_parameters_and_penalty_are_trained_alike_on_a_mesh(learned, execution):
    settings = {"activation": "learned", "method": "plain"}
    one, metrics = run_steps(make_config(**settings), execution, steps=5)
    many, others = run_steps(make_config(MeshConfig(2, 4), **settings), execution, steps=5)
    np.testing.assert_allclose(others[:, :3], metrics[:, :3], rtol=2e-5)
    for name, value in one.params.items():
        np.testing.assert_allclose(many.params[name], value, rtol=1e-4, atol=5e-6, err_msg=name)
    assert np.abs(one.params["t"] - 0.1).min() > 1e-3
    assert metrics[0, 0] > metrics[0, 1]  # the loss has the penalty, fvu has not


def test_the_module_holds_its_parameters(learned):
    state, _ = run_steps(make_config(activation="learned", method="plain"), steps=1)
    params = {name: jnp.asarray(value) for name, value in state.params.items()}
    module = SAE(SAEConfig(activation="learned"), params)
    x = jnp.asarray(np.random.default_rng(2).normal(size=(4, D)), jnp.float32)
    pre = (x - params["b_dec"][None, :]) @ params["W_enc"].T + params["b_enc"][None, :]
    expected = Learned().select(pre, params, None)
    assert module.t.shape == (F,)
    np.testing.assert_allclose(module.encode(x), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(module(x), module.decode(module.encode(x)), rtol=1e-4, atol=1e-5)
