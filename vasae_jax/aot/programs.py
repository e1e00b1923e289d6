"""Compile the programs of a run for a mesh from shapes alone; no array is ever made."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vasae_jax.activations import activation_of
from vasae_jax.config import Config
from vasae_jax.distributed.mesh import DATA, MEMBER, MODEL, Rules, shardings
from vasae_jax.evaluation.evaluate import measure_program
from vasae_jax.lm.model import Decoder, residuals
from vasae_jax.lm.spec import ParamSpec, Spec, block_params, model_params
from vasae_jax.lm.weights import Placement
from vasae_jax.names.by_embedding import names_program
from vasae_jax.sae import choose_execution
from vasae_jax.training.shapes import Shapes, batch_shapes, f32, init_shapes, input_shapes, shaped
from vasae_jax.training.state import state_init, state_maker
from vasae_jax.training.step import make_step

NAMES = 10
"""Tokens per feature, as a published dictionary has."""
CONTEXT = 128
"""Tokens in a window of extraction, its default."""
WINDOWS = 16
"""Windows in one forward pass, for each device along ``data``."""


class TooLarge(Exception):
    """The compiler refuses a program, for it needs more memory than a device has."""


def compile_program(name: str, config: Config, shapes: Shapes, mesh: Mesh) -> Any:
    """One of PROGRAMS as a ``jax.stages.Compiled`` for the devices of ``mesh``.

    Raises:
        TooLarge: a device's memory does not hold it.
    """
    program, arguments = PROGRAMS[name](config, shapes, mesh)
    try:
        return program.lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise TooLarge(str(error).splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ")) from error


def _step(config: Config, shapes: Shapes, mesh: Mesh) -> tuple[Any, tuple[Any, ...]]:
    rules = Rules()
    state = jax.eval_shape(state_init(config, shapes.features), init_shapes(config, shapes))
    batch, inputs = batch_shapes(shapes), input_shapes(config, shapes)
    execution = choose_execution(config.sae.execution, "tpu")
    return make_step(config, mesh, state, execution), (
        _sharded(mesh, state, rules.state(state)),
        _sharded(mesh, batch, jax.tree.map(lambda _: rules.batch(), batch)),
        _sharded(mesh, inputs, jax.tree.map(lambda _: P(), inputs)),
    )


def _pack(config: Config, shapes: Shapes, mesh: Mesh) -> tuple[Any, tuple[Any, ...]]:
    """A round of a pack: a run at each index of ``member``, each with its own lambda."""
    rules, runs = Rules(), mesh.shape[MEMBER]
    program, (state, batch, inputs) = _step(config, shapes, mesh)
    states = jax.tree.map(lambda leaf: _end_to_end(leaf, runs), state)
    weights = _sharded(mesh, f32(runs), P(rules.members))
    inputs = inputs._replace(hparams={"anchor_weight": weights})
    return program, (_sharded(mesh, states, rules.pack(state)), batch, inputs)


def _end_to_end(leaf: jax.ShapeDtypeStruct, runs: int) -> Any:
    """The shape of ``runs`` arrays joined along their first axis."""
    first, *others = leaf.shape or (1,)
    return shaped(leaf.dtype, runs * first, *others)


def _start(config: Config, shapes: Shapes, mesh: Mesh) -> tuple[Any, tuple[Any, ...]]:
    """The state at step 0: each feature's nearest anchor is searched among all."""
    init = init_shapes(config, shapes)
    program = state_maker(config, shapes.features, mesh, init)
    return program, (_sharded(mesh, init, jax.tree.map(lambda _: P(), init)),)


def _evaluation(config: Config, shapes: Shapes, mesh: Mesh) -> tuple[Any, tuple[Any, ...]]:
    features, d = shapes.features, shapes.d
    matrix = f32(features, d)
    params = {"W_enc": matrix, "b_enc": f32(features), "W_dec": matrix, "b_dec": f32(d)}
    x = shaped(jnp.bfloat16, shapes.rows, d)
    weights = shaped(np.bool_, 2, shapes.rows)
    activation = activation_of(config.sae)
    return measure_program(mesh, activation, config.sae.k, config.sae.pre_bias), (
        _sharded(mesh, params, Rules().state(params)),
        _sharded(mesh, x, P(DATA)),
        _sharded(mesh, weights, P(None, DATA)),
    )


def _naming(config: Config, shapes: Shapes, mesh: Mesh) -> tuple[Any, tuple[Any, ...]]:
    rows = _sharded(mesh, f32(shapes.features, shapes.d), P((DATA, MODEL)))
    return names_program(mesh, NAMES), (rows, _sharded(mesh, f32(shapes.vocab, shapes.d), P()))


def _extraction(config: Config, shapes: Shapes, mesh: Mesh) -> tuple[Any, tuple[Any, ...]]:
    """The forward of a Llama-3.1-8B up to the config's layer, in bfloat16."""
    placement = Placement(mesh)
    outer = {name: _weight(param, placement) for name, param in model_params(LLAMA_8B).items()}
    inner = {
        name: _weight(param, placement, LLAMA_8B.n_layers)
        for name, param in block_params(LLAMA_8B).items()
    }
    graph, weights = nnx.split(Decoder(LLAMA_8B, outer, inner, placement))
    windows = WINDOWS * mesh.shape[DATA]
    tokens = shaped(np.int32, windows, CONTEXT)
    layers = shaped(np.int32, 1)
    inputs = _sharded(mesh, tokens, P(DATA)), _sharded(mesh, layers, P())
    return jax.jit(partial(residuals, graph)), (weights, *inputs)


LLAMA_8B = Spec(
    family="llama",
    architecture="LlamaForCausalLM",
    n_layers=32,
    d_model=4096,
    n_heads=32,
    n_kv_heads=8,
    head_dim=128,
    d_ff=14336,
    vocab_size=128256,
    context_length=131072,
    tied=False,
    norm_eps=1e-5,
    activation="silu",
    inverse_frequencies=(1.0,) * 64,
)
"""Llama-3.1-8B in all that a compiled program depends on."""


def _weight(param: ParamSpec, placement: Placement, layers: int = 0) -> jax.ShapeDtypeStruct:
    shape = (layers, *param.shape) if layers else param.shape
    axes = ("layers", *param.axes) if layers else param.axes
    assert placement.mesh is not None
    sharding = NamedSharding(placement.mesh, placement.partition(axes, shape))
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding)


def _sharded(mesh: Mesh, tree: Any, specs: Any) -> Any:
    """Every shape of ``tree`` with its sharding on the mesh."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings(mesh, specs),
    )


Maker = Callable[[Config, Shapes, Mesh], tuple[Any, tuple[Any, ...]]]
PROGRAMS: dict[str, Maker] = {
    "step": _step,
    "pack": _pack,
    "start": _start,
    "evaluation": _evaluation,
    "naming": _naming,
    "extraction": _extraction,
}
"""What can be compiled: each makes a jitted program and its arguments, as shapes on a mesh."""
