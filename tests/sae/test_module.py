"""The NNX module is the functions, in the field's shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx
from step_fixtures import D, F, K, V, make_config, make_rows

from vasae_jax.sae.module import SAE


def make(method="soft"):
    x, _, anchors = make_rows()
    config = make_config(method=method).sae
    mean = jnp.full((D,), 0.1, jnp.float32)
    d_sae = V if method == "tied" else F
    return SAE.create(config, d_sae, mean, jnp.asarray(anchors), jnp.arange(V), nnx.Rngs(0)), x[0]


@pytest.mark.parametrize("method", ["plain", "soft", "tied"])
def test_it_reconstructs_as_the_reference_does(method):
    module, x = make(method)
    assert module.W_enc.shape == (D, module.W_dec.shape[0])
    wide = {name: np.asarray(value, np.float64) for name, value in module.params().items()}
    expected, z, _ = reference.forward(wide, x.astype(np.float64), K, 1.0)
    np.testing.assert_allclose(module(jnp.asarray(x)), expected, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(module.encode(jnp.asarray(x)), z, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(module.decode(jnp.asarray(z, jnp.float32)), expected, atol=5e-6)
    found = module.decode_active(*module.active(jnp.asarray(x)))
    np.testing.assert_allclose(found, expected, atol=5e-6)
    deep = module(jnp.asarray(x).reshape(2, 3, -1, D))
    np.testing.assert_allclose(deep.reshape(-1, D), expected, rtol=2e-5, atol=2e-6)


def test_gradients_reach_the_parameters_and_not_a_tied_decoder():
    for method, trained in (
        ("soft", {"W_enc", "b_enc", "W_dec", "b_dec"}),
        ("tied", {"W_enc", "b_enc"}),
    ):
        module, x = make(method)

        @nnx.jit
        def gradients(module, rows):
            return nnx.grad(lambda m: jnp.mean(jnp.square(m(rows) - rows)))(module)

        grads = gradients(module, jnp.asarray(x))
        found = {path[-1]: value for path, value in nnx.to_flat_state(grads)}
        assert set(found) == trained
        assert all(
            np.abs(np.asarray(jax.tree.leaves(value)[0])).max() > 0 for value in found.values()
        )


def test_params_go_there_and_back():
    module, x = make()
    again = SAE(module.config, module.params())
    np.testing.assert_array_equal(again(jnp.asarray(x)), module(jnp.asarray(x)))


def test_the_published_start_is_normal_with_zero_biases():
    config = make_config(encoder_init="normal", decoder_init="normal", b_dec_init="zero",
                         normalize_decoder=False).sae  # fmt: skip
    shapes = jnp.full((200,), 3.0), jnp.zeros((V, 200)), jnp.arange(V)
    params = SAE.create(config, 500, *shapes, nnx.Rngs(0)).params()
    assert not np.asarray(params["b_enc"]).any() and not np.asarray(params["b_dec"]).any()
    for name in ("W_enc", "W_dec"):
        # 100 000 draws: the standard deviation is known to 0.2% (one sigma)
        assert np.std(params[name]) == pytest.approx(0.02, rel=0.01)
    assert np.abs(np.asarray(params["W_enc"]) - np.asarray(params["W_dec"])).max() > 0.02
