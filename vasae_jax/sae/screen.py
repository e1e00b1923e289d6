"""Exact top-k of a float32 product through a bfloat16 one, for machines that have that faster.

The product of the rounded inputs is off by at most what rounding took from them: with x' and w'
rounded, |x.w - x'.w'| <= |x - x'| |w'| + |x| |w - w'| (Cauchy and Schwarz), and rounding takes at
most 2^-8 of each number, since bfloat16 has 8 significant bits. So it gives an upper bound of
every preactivation. Twice as many candidates as are wanted are taken by that bound and measured in
float32. Where the k-th of them exceeds the smallest bound taken, nothing outside can be among the
k; the few rows where it does not are multiplied in float32 after all.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vasae_jax.sae.params import row_dots
from vasae_jax.sae.topk import by_tiles, first_columns, product, top_k

LEAST_FEATURES = 512
"""Features per active one from which the smaller product pays for measuring the candidates."""
SCREENED = "screened in bfloat16"
"""This way's name beside that of the whole product."""
MEASURED, MEASURED_ROWS = 2**26, 256
"""Numbers of the encoder, and rows, that are enough to tell which is faster. Fewer features are
not: of 4096 the screen was the slower way by a fifth where of 50257 it was the faster by as much,
for what it does of each row hardly depends on their number."""
ROUNDING = 2.0**-8
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

    def way(top: Callable[..., tuple[jax.Array, jax.Array]]) -> Callable[[], jax.Array]:
        run = jax.jit(lambda x, W, b: by_tiles(lambda rows: top(rows, W, b, few), x)[0])
        return lambda: run(x, W, b)

    return {"float32": way(_float32_top_k), SCREENED: way(product_top_k)}


def product_top_k(
    x_BD: jax.Array, W_FD: jax.Array, b_F: jax.Array, max_k: int, k: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """The ``max_k`` largest of each row of relu(x W^T + b), equal values by lowest id.

    Args:
        x_BD: float32. W_FD: float32, F at least 2 * max_k. b_F: float32.
        max_k: columns of the result.
        k: [] int32, at most max_k. Only the first k columns are then right, and are what they are
            where ``max_k`` is just that.

    Returns:
        values [B, max_k] float32, ids [B, max_k] int32, largest first.
    """
    bounds, ids = top_k(_upper_bounds(x_BD, W_FD, b_F), 2 * max_k)
    none = W_FD.shape[0]  # stands for a candidate too many
    if k is not None:
        bounds = first_columns(bounds, 2 * k, jnp.inf)
        ids = jnp.where(jnp.isinf(bounds), jnp.full_like(ids, none), ids)
    ids = jnp.sort(ids, axis=1)  # by id, so that equal values go to the lowest
    products = _measured(x_BD, W_FD, b_F, jnp.minimum(ids, none - 1))
    if k is not None:
        products = jnp.where(ids < none, products, jnp.full_like(products, -1.0))
    values, at = jax.lax.top_k(products, max_k)
    ids = jnp.minimum(jnp.take_along_axis(ids, at, axis=1), none - 1)
    # Minima, not last columns: XLA on CPU makes a full sort of a top-k that is read by column.
    least = bounds.min(axis=1)
    last = (values if k is None else first_columns(values, k, jnp.inf)).min(axis=1)
    unsure = (least >= last) & (least > 0)
    return _replace_unsure(x_BD, W_FD, b_F, values, ids, unsure)


_State = tuple[jax.Array, jax.Array, jax.Array]
"""Values and ids [B, k], and which rows [B] are unsure."""


def _replace_unsure(
    x_BD: jax.Array,
    W_FD: jax.Array,
    b_F: jax.Array,
    values: jax.Array,
    ids: jax.Array,
    unsure_B: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """``values`` and ``ids`` [B, k] with those of unsure rows taken from the float32 product.

    A loop over tiles of rows, usually of no iteration.
    """
    tile = -(-x_BD.shape[0] // TILES)

    def next_tile(state: _State) -> _State:
        values, ids, unsure_B = state
        _, rows = jax.lax.top_k(unsure_B.astype(jnp.int32), tile)
        exact, exact_ids = _float32_top_k(x_BD[rows], W_FD, b_F, values.shape[1])
        return (
            values.at[rows].set(exact),
            ids.at[rows].set(exact_ids),
            unsure_B.at[rows].set(jnp.zeros((tile,), bool)),
        )

    values, ids, _ = jax.lax.while_loop(
        lambda state: jnp.any(state[2]), next_tile, (values, ids, unsure_B)
    )
    return values, ids


def _upper_bounds(x: jax.Array, W: jax.Array, b: jax.Array) -> jax.Array:
    """At least x W^T + b, [B, F]."""
    x16 = x.astype(jnp.bfloat16)
    screened = product(x16, W.astype(jnp.bfloat16), over=(1, 1))
    slack = SLACK * x.shape[1]
    lost = x - x16.astype(jnp.float32)
    reach = jnp.sqrt(row_dots(lost, lost)) * (1 + ROUNDING)
    reach = reach + jnp.sqrt(row_dots(x, x)) * (ROUNDING + slack)
    size, most = jnp.sqrt(row_dots(W, W)), b + slack * jnp.abs(b)
    return screened + most[None, :] + reach[:, None] * size[None, :]


def _measured(x: jax.Array, W: jax.Array, b: jax.Array, ids: jax.Array) -> jax.Array:
    """relu(<x[i], W[ids[i, j]]> + b[ids[i, j]]), [B, n]."""
    products = jax.lax.map(lambda row: jnp.sum(x * W[row], axis=1), ids.T).T
    return jax.nn.relu(products + b[ids])


def _float32_top_k(x: jax.Array, W: jax.Array, b: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    return top_k(jax.nn.relu(product(x, W, over=(1, 1)) + b[None, :]), k)
