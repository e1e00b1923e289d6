"""The time of a pack on a TPU slice that is not there, as its compiler prices a step."""

from vasae_jax.aot import Slice, compile_program, cost_of
from vasae_jax.cache import Cache
from vasae_jax.sweep.packs import Pack
from vasae_jax.training.pack import rounds_of, widest
from vasae_jax.training.shapes import shapes_of


def pack_seconds(pack: Pack, place: Slice) -> float:
    """Seconds of the steps of ``pack`` on a slice, each round at the compiler's estimate.

    Raises:
        UserError: the mesh does not divide the slice.
        TooLarge: a device's memory does not hold it.
    """
    configs = [member.config for member in pack]
    config = widest(configs)
    mesh = place.pack_mesh(config.mesh.member, config.mesh.model)
    shapes = shapes_of(config, Cache.open(config.data.cache).manifest)
    compiled = compile_program("pack", config, shapes, mesh)
    rounds = len(rounds_of(configs, config.mesh.member))
    return cost_of(compiled, place.chip).seconds * rounds * config.run.steps
