"""The type that a language model's products are faster in, on this machine."""

import jax
import jax.numpy as jnp

from vasae_jax.devices.fastest import Fastest, fastest

ROWS, WIDTH, COLUMNS = 2048, 768, 3072
"""A feed-forward layer's product, of a small model and a usual batch."""
WORTH = 1.25
"""How many times as fast bfloat16 must be: it moves a model's rows by about 0.5% of their length,
and the conversions around a product cost some of what it gains."""


def faster_type() -> str:
    """``bfloat16`` where its products are WORTH times as fast as float32's, else ``float32``."""
    return choose(fastest(f"a product of {ROWS} x {WIDTH} x {COLUMNS}", ways))


def choose(found: Fastest) -> str:
    """The type for these times."""
    seconds = found.seconds
    return "bfloat16" if seconds["bfloat16"] * WORTH <= seconds["float32"] else "float32"


def ways() -> dict[str, "Product"]:
    """The product in both types."""
    return {name: Product(name) for name in ("float32", "bfloat16")}


class Product:
    """A product of ones in one type, summed in float32, whenever it is called."""

    def __init__(self, name: str) -> None:
        self._x, self._W = (jnp.ones((n, WIDTH), jnp.dtype(name)) for n in (ROWS, COLUMNS))
        self._run = jax.jit(
            lambda x, W: jnp.einsum("rd,cd->rc", x, W, preferred_element_type=jnp.float32)
        )

    def __call__(self) -> jax.Array:
        """The product [ROWS, COLUMNS]."""
        found: jax.Array = self._run(self._x, self._W)
        return found
