"""The time of a pack on a TPU slice that is not there, as its compiler prices a step."""

from vasae_jax.aot import Shapes, Slice, compile_program, cost_of
from vasae_jax.cache import Cache
from vasae_jax.config import Config
from vasae_jax.sweep.packs import Pack
from vasae_jax.training.checks import features
from vasae_jax.training.pack import rounds_of, widest


def pack_seconds(pack: Pack, place: Slice) -> float:
    """Seconds of the steps of ``pack`` on a slice, each round at the compiler's estimate.

    Raises:
        UserError: the mesh does not divide the slice.
        TooLarge: a device's memory does not hold it.
    """
    configs = [member.config for member in pack]
    config = widest(configs)
    mesh = place.pack_mesh(config.mesh.member, config.mesh.model)
    compiled = compile_program("pack", config, shapes_of(config), mesh)
    rounds = len(rounds_of(configs, config.mesh.member))
    return cost_of(compiled, place.chip).seconds * rounds * config.run.steps


def shapes_of(config: Config) -> Shapes:
    """The sizes of a run that a program depends on, by its cache."""
    manifest = Cache.open(config.data.cache).manifest
    d_sae = features(config, manifest.vocab_size)
    return Shapes(manifest.d_model, manifest.vocab_size, d_sae, config.data.batch)
