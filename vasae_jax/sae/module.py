"""The SAE as a Flax NNX module, for use in one's own code; the trainer uses the functions."""

from typing import Self

import jax
import jax.numpy as jnp
from flax import nnx

from vasae_jax.activations import activation_of
from vasae_jax.config import SAEConfig
from vasae_jax.sae.config import Execution, ForwardConfig
from vasae_jax.sae.forward import decode, encode, forward
from vasae_jax.sae.params import Params, init_params


class Fixed(nnx.Variable[jax.Array]):
    """A weight that is not trained: the decoder of method ``tied``."""


class SAE(nnx.Module):
    """A sparse autoencoder with the field's usual shapes.

    >>> run = vj.open_trained(config.run.out)
    >>> sae = vj.SAE(run.config.sae, run.params)
    >>> x = run.cache.acts(run.config.data.layer, "heldout").read(0, 100)
    >>> sae(x).shape == x.shape
    True
    >>> z = sae.encode(x)
    >>> int((z > 0).sum(axis=1).max()) <= run.config.sae.k
    True

    Attributes:
        W_enc: [d_in, d_sae]. b_enc: [d_sae]. W_dec: [d_sae, d_in]. b_dec: [d_in]; all
            float32 ``nnx.Param`` (W_dec and b_dec are ``Fixed`` with method ``tied``). An
            activation's own parameters, such as threshold [d_sae], are attributes too.
        config: the settings it was made with.
        activation: which features fire.
    """

    def __init__(self, config: SAEConfig, params: Params) -> None:
        """Hold ``params``, feature-major as in a trainer's state or checkpoint."""
        kind = Fixed if config.method == "tied" else nnx.Param
        self.config, self.activation = config, activation_of(config)
        self.W_enc = nnx.Param(params["W_enc"].T)
        self.b_enc = nnx.Param(params["b_enc"])
        self.W_dec = kind(params["W_dec"])
        self.b_dec = kind(params["b_dec"])
        for name in self.activation.extra_params:
            setattr(self, name, nnx.Param(params[name]))

    @classmethod
    def create(
        cls,
        config: SAEConfig,
        d_sae: int,
        mean: jax.Array,
        anchors: jax.Array,
        tokens: jax.Array,
        rngs: nnx.Rngs,
        std: float = 0.0,
    ) -> Self:
        """Start as a plain training run with ``config`` does.

        Args:
            config: its init settings, k, pre_bias and method are used.
            d_sae: number of features.
            mean: [d_in] mean of the rows, for ``b_dec_init="mean"``.
            anchors: [V, d_in] anchor rows (raw embeddings for method ``tied``).
            tokens: [V] int32 token ids in the order in which features start at them.
            rngs: its ``params`` key is used.
            std: standard deviation of an entry of the rows, for ``b_enc_init``.
        """
        return cls(config, init_params(rngs.params(), config, d_sae, mean, anchors, tokens, std))

    def params(self) -> Params:
        """The trainer's feature-major parameters."""
        names = ("b_enc", "W_dec", "b_dec", *self.activation.extra_params)
        return {"W_enc": self.W_enc[...].T, **{name: getattr(self, name)[...] for name in names}}

    def __call__(self, x: jax.Array, execution: Execution = "sparse") -> jax.Array:
        """Reconstruct ``x [..., d_in]``, float32; differentiable in the parameters."""
        rows = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
        config = self.config
        cfg = ForwardConfig(self.activation, config.pre_bias, execution, config.compute_dtype)
        return forward(self.params(), rows, cfg).x_hat.reshape(x.shape)

    def active(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Features that fire on rows ``x [B, d_in]``: values [B, K], ids [B, K] int32."""
        return encode(self.params(), x.astype(jnp.float32), self.activation, self.config.pre_bias)

    def encode(self, x: jax.Array) -> jax.Array:
        """z of rows ``x [B, d_in]``, [B, d_sae]."""
        values, ids = self.active(x)
        rows = jnp.arange(x.shape[0])[:, None]
        return jnp.zeros((x.shape[0], self.b_enc.shape[0]), values.dtype).at[rows, ids].set(values)

    def decode(self, z: jax.Array) -> jax.Array:
        """x_hat [B, d_in] of a dense ``z [B, d_sae]``."""
        return z @ self.W_dec[...] + self.b_dec[...][None, :]

    def decode_active(self, values: jax.Array, ids: jax.Array) -> jax.Array:
        """x_hat [B, d_in] of active features, as :meth:`active` gives them."""
        return decode(self.params(), values, ids)
