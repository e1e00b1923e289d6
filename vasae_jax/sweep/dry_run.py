"""What a sweep would train, as text, with nothing started."""

from collections.abc import Sequence

from vasae_jax.aot import Slice, compile_program, cost_of, open_slice
from vasae_jax.cache import Cache
from vasae_jax.config import Config
from vasae_jax.sweep.packs import Pack, device_bytes
from vasae_jax.sweep.points import Member, Sweep, members_of, varied
from vasae_jax.sweep.run import SweepOptions, check_sweep, make_packs
from vasae_jax.sweep.status import DONE, run_status
from vasae_jax.sweep.train import Planner
from vasae_jax.training.pack import rounds_of, widest
from vasae_jax.training.shapes import shapes_of
from vasae_jax.utils.progress import duration


def dry_run(sweep: Sweep, options: SweepOptions, topology: str | None = None) -> str:
    """Packs, runs, memory a device and, for a named TPU slice, the time.

    Raises:
        UserError: what a start would refuse, or the slice is not known.
    """
    tpu = open_slice(topology) if topology else None  # before JAX has looked for devices
    check_sweep(sweep)
    members = members_of(sweep.base, sweep.points, sweep.out)
    planner = Planner(members, "tpu" if tpu else None)
    packs = make_packs(members, planner, options)
    done = sum(run_status(member).status == DONE for member in members)
    axes = ", ".join(varied([member.config for member in members])) or "nothing"
    lines = [f"{len(members)} runs that differ in {axes}; {done} are done; {len(packs)} packs here"]
    if hint := _seed_hint(members):
        lines.append(hint)
    total = 0.0
    for number, pack in enumerate(packs, 1):
        memory = planner.memory(pack).total
        lines.append(
            f"pack {number}: {_description(pack)}; about {memory / 2**30:.2f} GiB a device"
        )
        if tpu is not None:
            seconds = pack_seconds(pack, tpu)
            total += seconds
            lines[-1] += f", {duration(seconds)} on {topology} by its compiler's cost model"
    if tpu is not None:
        lines.append(f"in all {duration(total)}, an estimate: nothing has run")
    else:
        lines.append(f"a device has {device_bytes() / 2**30:.1f} GiB")
    lines += [f"  {member.id}  {member.name}" for pack in packs for member in pack]
    return "\n".join(lines)


def pack_seconds(pack: Pack, tpu: Slice) -> float:
    """Seconds of the steps of ``pack`` on a TPU slice, by its compiler's estimate of a round.

    Raises:
        UserError: the mesh does not divide the slice.
        TooLarge: a device's memory does not hold it.
    """
    configs = [member.config for member in pack]
    config = widest(configs)
    mesh = tpu.pack_mesh(config.mesh.member, config.mesh.model)
    shapes = shapes_of(config, Cache.open(config.data.cache).manifest)
    compiled = compile_program("pack", config, shapes, mesh)
    rounds = len(rounds_of(configs, config.mesh.member))
    return cost_of(compiled, tpu.chip).seconds * rounds * config.run.steps


def _description(pack: Pack) -> str:
    configs = [member.config for member in pack]
    layers = ", ".join(map(str, sorted({config.data.layer for config in configs})))
    rounds = len(rounds_of(configs, configs[0].mesh.member))
    return (
        f"{len(pack)} runs on layer {layers}, k up to {widest(configs).sae.k}, in {rounds} rounds "
        f"a step, {configs[0].run.steps} steps of {configs[0].data.batch} rows"
    )


def _seed_hint(members: Sequence[Member]) -> str:
    """A hint where seeds keep runs from sharing a pack, or make no difference."""
    configs = [member.config for member in members]
    if len({config.run.seed for config in configs}) == 1:
        return ""
    seed_orders_rows = any(config.data.seed is None for config in configs)
    seed_draws_weights = any(_draws_weights(config) for config in configs)
    if seed_orders_rows and seed_draws_weights:
        return (
            "each run.seed also orders the rows: with one data.seed runs of all seeds share packs"
        )
    if not seed_orders_rows and not seed_draws_weights:
        return (
            "no weight is drawn and data.seed orders the rows: runs of several run.seed are equal"
        )
    return ""


def _draws_weights(config: Config) -> bool:
    """Whether a run's first weights depend on its seed."""
    sae = config.sae
    inits = (sae.encoder_init, sae.decoder_init, sae.b_dec_init)
    return any(init in ("normal", "uniform", "random") for init in inits)
