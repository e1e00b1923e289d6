"""Exact top-k of a float32 product through a bfloat16 one, for machines that have that faster.

The product of the rounded inputs is off by at most what rounding took from them: with x' and w'
rounded, |x.w - x'.w'| <= |x - x'| |w'| + |x| |w - w'| (Cauchy and Schwarz), and rounding takes at
most 2^-9 of each number. So it gives an upper bound of every preactivation. Twice as many
candidates as are wanted are taken by that bound and measured in float32. Where the k-th of them
exceeds the smallest bound taken, nothing outside can be among the k; the few rows where it does
not are multiplied in float32 after all.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vasae_jax.sae.params import row_dots
from vasae_jax.sae.topk import by_tiles, top_k, within

LEAST_FEATURES = 512
"""Features per active one from which the smaller product pays for measuring the candidates."""
SCREENED = "screened in bfloat16"
"""This way's name beside that of the whole product."""
MEASURED, MEASURED_ROWS = 2**26, 256
"""Numbers of the encoder, and rows, that are enough to tell which is faster. Fewer features are
not: of 4096 the screen was the slower way by a fifth where of 50257 it was the faster by as much,
for what it does of each row hardly depends on their number."""
ROUNDING = 2.0**-9
"""Largest share of a number that rounding to bfloat16 takes."""
SLACK = 2.0**-23
"""For each term of a sum, the share of |x| |w| added to every bound for rounding in float32: twice
the 2^-24 that one sum can lose, for the screen's and the one that measures. Of |b| likewise."""
TILES = 8
"""A batch is so many tiles; unsure rows are multiplied again a tile at a time."""


def may_pay(features: int, k: int) -> bool:
    """Whether screening for ``k`` of ``features`` may be faster, where the machine has bfloat16."""
    return features >= LEAST_FEATURES * k


def ways(rows: int, width: int, features: int, k: int) -> dict[str, Callable[[], jax.Array]]:
    """Both ways to the top k, to be timed: of some features where there are very many."""
    rows, some = min(rows, MEASURED_ROWS), min(features, MEASURED // width)
    few = max(1, round(k * some / features))
    keys = jax.random.split(jax.random.key(0), 2)
    x, W = (jax.random.normal(key, (n, width)) for key, n in zip(keys, (rows, some), strict=True))
    b = jnp.zeros((some,))

    def way(find: Callable[..., tuple[jax.Array, jax.Array]]) -> Callable[[], jax.Array]:
        run = jax.jit(lambda x, W, b: by_tiles(lambda rows: find(rows, W, b, few), x)[0])
        return lambda: run(x, W, b)

    return {"float32": way(_in_full), SCREENED: way(product_top_k)}


def product_top_k(
    x: jax.Array, W: jax.Array, b: jax.Array, k: int, limit: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """The ``k`` largest of each row of relu(x W^T + b), equal values by lowest id.

    Args:
        x: [B, d] float32. W: [F, d] float32, F at least 2k. b: [F] float32.

    Returns:
        values [B, k] float32, ids [B, k] int32, largest first. With a ``limit``, [] int32, only
        the first so many are right, and are what they are where ``k`` is just that.
    """
    bounds, ids = top_k(_upper(x, W, b), 2 * k)
    none = W.shape[0]  # stands for a candidate too many
    if limit is not None:
        bounds = within(bounds, 2 * limit, jnp.inf)
        ids = jnp.where(jnp.isinf(bounds), jnp.full_like(ids, none), ids)
    ids = jnp.sort(ids, axis=1)  # by id, so that equal values go to the lowest
    products = _measured(x, W, b, jnp.minimum(ids, none - 1))
    if limit is not None:
        products = jnp.where(ids < none, products, jnp.full_like(products, -1.0))
    values, at = jax.lax.top_k(products, k)
    ids = jnp.minimum(jnp.take_along_axis(ids, at, axis=1), none - 1)
    # Minima, not last columns: XLA on CPU makes a full sort of a top-k that is read by column.
    least = bounds.min(axis=1)
    last = (values if limit is None else within(values, limit, jnp.inf)).min(axis=1)
    unsure = (least >= last) & (least > 0)
    return _settle(x, W, b, values, ids, unsure)


def _settle(
    x: jax.Array, W: jax.Array, b: jax.Array, values: jax.Array, ids: jax.Array, unsure: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """``values`` and ``ids`` [B, k] with those of ``unsure`` rows taken from the float32 product.

    A loop over tiles of rows, as a rule of no round.
    """
    tile = -(-x.shape[0] // TILES)

    def one(
        found: tuple[jax.Array, jax.Array, jax.Array],
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        values, ids, unsure = found
        _, rows = jax.lax.top_k(unsure.astype(jnp.int32), tile)
        again, again_ids = _in_full(x[rows], W, b, values.shape[1])
        return (
            values.at[rows].set(again),
            ids.at[rows].set(again_ids),
            unsure.at[rows].set(jnp.zeros((tile,), bool)),
        )

    values, ids, _ = jax.lax.while_loop(lambda found: jnp.any(found[2]), one, (values, ids, unsure))
    return values, ids


def _upper(x: jax.Array, W: jax.Array, b: jax.Array) -> jax.Array:
    """At least x W^T + b, [B, F]."""
    x16 = x.astype(jnp.bfloat16)
    dims = (((1,), (1,)), ((), ()))
    product = jax.lax.dot_general(
        x16, W.astype(jnp.bfloat16), dims, preferred_element_type=jnp.float32
    )
    slack = SLACK * x.shape[1]
    lost = x - x16.astype(jnp.float32)
    reach = jnp.sqrt(row_dots(lost, lost)) * (1 + ROUNDING)
    reach = reach + jnp.sqrt(row_dots(x, x)) * (ROUNDING + slack)
    size, most = jnp.sqrt(row_dots(W, W)), b + slack * jnp.abs(b)
    return product + most[None, :] + reach[:, None] * size[None, :]


def _measured(x: jax.Array, W: jax.Array, b: jax.Array, ids: jax.Array) -> jax.Array:
    """relu(<x[i], W[ids[i, j]]> + b[ids[i, j]]), [B, n]."""
    products = jax.lax.map(lambda row: jnp.sum(x * W[row], axis=1), ids.T).T
    return jax.nn.relu(products + b[ids])


def _in_full(x: jax.Array, W: jax.Array, b: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    dims = (((1,), (1,)), ((), ()))
    return top_k(jax.nn.relu(jax.lax.dot_general(x, W, dims) + b[None, :]), k)
