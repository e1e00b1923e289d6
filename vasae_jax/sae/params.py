"""The parameters of an SAE and how they start.

Inside the trainer both matrices are feature-major, one row a feature: every operation on
a feature (gather, scatter, anchor, shard) is then an operation on a contiguous row. The
module and the exported dictionary show the field's usual ``W_enc [d_in, d_sae]``.
"""

import jax
import jax.numpy as jnp

from vasae_jax.activations import activation_of
from vasae_jax.config import SAEConfig

Params = dict[str, jax.Array]
"""Parameters of one SAE, all float32: W_enc [d_sae, d_in], one row a feature, b_enc [d_sae],
W_dec [d_sae, d_in], b_dec [d_in], and those that its activation adds, [d_sae] each."""


def init_params(
    key: jax.Array,
    config: SAEConfig,
    d_sae: int,
    mean: jax.Array,
    anchors: jax.Array,
    tokens: jax.Array,
    std: jax.Array | float = 0.0,
) -> Params:
    """Parameters at step 0 by the ``*_init`` settings of ``config``.

    ``uniform`` is torch.nn.Linear's default: U(-1/sqrt(n), 1/sqrt(n)) with n the inputs of
    the layer, so d_in for the encoder and d_sae for the decoder, biases alike. ``normal`` has
    zero biases.

    Args:
        key: a JAX random key.
        config: the SAE settings; method ``tied`` takes ``anchors`` as its decoder and has
            a zero b_dec.
        d_sae: number of features.
        mean: [d_in] mean of the training rows.
        anchors: [V, d_in] embeddings (for ``tied`` raw, otherwise what anchors the run).
        tokens: [V] int32, all token ids, those that matter most first, for
            ``decoder_init="tokens"``: feature i starts at token i of this list, around again
            where there are more features than tokens.
        std: [] standard deviation of an entry of the training rows, for ``b_enc_init``: times the
            norm of an encoder row it is that of the row's product with rows of equal spread in all
            directions.
    """
    d_in = mean.shape[0]
    enc_key, dec_key, bias_key, dec_bias_key = jax.random.split(key, 4)
    W_dec = _decoder_rows(dec_key, config, d_sae, anchors, tokens)
    W_enc, b_enc = W_dec, jnp.zeros((d_sae,), jnp.float32)
    if config.encoder_init == "uniform":
        W_enc, b_enc = _linear(enc_key, (d_sae, d_in), d_in), _linear(bias_key, (d_sae,), d_in)
    elif config.encoder_init == "normal":
        W_enc = _normal(enc_key, (d_sae, d_in))
    b_enc = b_enc - config.b_enc_init * std * jnp.sqrt(row_dots(W_enc, W_enc))
    if config.method == "tied" or config.b_dec_init == "zero":
        b_dec = jnp.zeros((d_in,), jnp.float32)
    elif config.b_dec_init == "mean":
        b_dec = mean.astype(jnp.float32)
    else:
        b_dec = _linear(dec_bias_key, (d_in,), d_sae)
    extra = activation_of(config).init_params(d_sae)
    params = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec}
    return params | {name: jnp.asarray(value) for name, value in extra.items()}


def unit_rows(W: jax.Array) -> jax.Array:
    """Rows of ``W [n, d]`` scaled to norm 1; zero rows stay zero."""
    norm = jnp.sqrt(row_dots(W, W))[:, None]
    return W / jnp.where(norm == 0, jnp.ones_like(norm), norm)


def row_dots(a: jax.Array, b: jax.Array) -> jax.Array:
    """sum over each row of a * b, [n] float32, for ``a`` and ``b`` [n, d].

    Left alone, XLA on CPU draws what is done with the sums into the loop over the row's
    numbers, which doubles its time; rounding to the precision that they have keeps it out.
    """
    return jax.lax.reduce_precision(jnp.sum(a * b, axis=1), exponent_bits=8, mantissa_bits=23)


def _decoder_rows(
    key: jax.Array, config: SAEConfig, d_sae: int, anchors: jax.Array, tokens: jax.Array
) -> jax.Array:
    """W_dec [d_sae, d_in] at step 0."""
    if config.method == "tied":
        return anchors
    shape = (d_sae, anchors.shape[1])
    if config.decoder_init == "tokens":
        return unit_rows(anchors[tokens[jnp.arange(d_sae) % tokens.shape[0]]])
    if config.decoder_init == "random":
        return unit_rows(jax.random.normal(key, shape, jnp.float32))
    rows = _normal(key, shape) if config.decoder_init == "normal" else _linear(key, shape, d_sae)
    return unit_rows(rows) if config.normalize_decoder else rows


def _normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """N(0, 0.02), as Hugging Face's PreTrainedModel starts every linear layer."""
    return 0.02 * jax.random.normal(key, shape, jnp.float32)


def _linear(key: jax.Array, shape: tuple[int, ...], fan_in: int) -> jax.Array:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)) in float32."""
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)
