"""Which library runs a language model: this package's own models in Flax, or PyTorch."""

import importlib.util
from typing import TYPE_CHECKING, Literal, get_args

import jax

from vasae_jax.lm import load_lm
from vasae_jax.lm.lm import LM
from vasae_jax.lm.spec import UnknownArchitecture
from vasae_jax.utils.errors import UserError

if TYPE_CHECKING:
    from vasae_jax.extract.torch import TorchLM

Backend = Literal["auto", "flax", "torch"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
"""auto: Flax where this package has the architecture, otherwise PyTorch where it is installed."""


def load_model(
    source: str,
    backend: Backend,
    dtype: str,
    *,
    mesh: jax.sharding.Mesh | None = None,
    device: str | None = None,
) -> "LM | TorchLM":
    """The language model at ``source``, with weights and products in ``dtype``.

    Args:
        source: a directory, a .gguf file, or a name on the Hugging Face hub.
        backend: the library.
        dtype: ``float32`` or ``bfloat16``.
        mesh: of axes data and model, over which Flax splits windows and weights.
        device: torch's name of the device; None: a GPU if there is one.

    Raises:
        UserError: no such model, one that the library does not read, or a mesh for PyTorch.
    """
    if backend != "torch":
        try:
            return load_lm(source, dtype, mesh)
        except UnknownArchitecture:
            if backend == "flax" or importlib.util.find_spec("torch") is None:
                raise
    if mesh is not None:
        raise UserError("--mesh is set for a model that PyTorch runs; expected one that Flax runs")
    from vasae_jax.extract.torch import TorchLM, best_device

    return TorchLM(source, device or best_device(), dtype)


def make_mesh(shape: str) -> jax.sharding.Mesh | None:
    """A mesh of ``"DATA,MODEL"`` devices, None for one device; raises UserError."""
    try:
        data, model = (int(part) for part in shape.split(","))
    except ValueError as error:
        raise UserError(f"--mesh is {shape!r}; expected two numbers as in 4,2") from error
    if not 1 <= data * model <= jax.device_count() or data < 1:
        raise UserError(f"--mesh {shape} needs {data * model} devices; {jax.device_count()} found")
    if data * model == 1:
        return None
    auto = jax.sharding.AxisType.Auto
    return jax.make_mesh((data, model), ("data", "model"), axis_types=(auto, auto))
