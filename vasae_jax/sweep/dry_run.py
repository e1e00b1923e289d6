"""What a sweep would train, in words, with nothing started."""

from collections.abc import Sequence

from vasae_jax.config import Config
from vasae_jax.sweep.packs import Pack, device_bytes
from vasae_jax.sweep.points import Member, Sweep, members_of, varied
from vasae_jax.sweep.run import Asked, checked, planned
from vasae_jax.sweep.table import DONE, standing
from vasae_jax.sweep.train import Planner
from vasae_jax.training.pack import rounds_of, widest
from vasae_jax.utils.progress import duration


def dry_run(sweep: Sweep, asked: Asked, topology: str | None = None) -> str:
    """Packs, runs, memory a device and, for a named TPU slice, the time.

    Raises:
        UserError: what a start would refuse, or the slice is not known.
    """
    from vasae_jax.aot.chips import open_slice

    place = open_slice(topology) if topology else None  # before JAX has looked for devices
    sweep = checked(sweep)
    members = members_of(sweep.base, sweep.points, sweep.out)
    planner = Planner(members, "tpu" if place else None)
    packs = planned(members, planner, asked)
    done = sum(standing(member).status == DONE for member in members)
    axes = ", ".join(varied([member.config for member in members])) or "nothing"
    lines = [f"{len(members)} runs that differ in {axes}; {done} are done; {len(packs)} packs here"]
    if hint := _seeds(members):
        lines.append(hint)
    total = 0.0
    for number, pack in enumerate(packs, 1):
        memory = planner.memory(pack).total
        lines.append(f"pack {number}: {_described(pack)}; about {memory / 2**30:.2f} GiB a device")
        if place is not None:
            from vasae_jax.sweep.packs import pack_seconds

            seconds = pack_seconds(pack, place)
            total += seconds
            lines[-1] += f", {duration(seconds)} on {topology} by its compiler's cost model"
    if place is not None:
        lines.append(f"in all {duration(total)}, an estimate: nothing has run")
    else:
        lines.append(f"a device has {device_bytes() / 2**30:.1f} GiB")
    lines += [f"  {member.id}  {member.name}" for pack in packs for member in pack]
    return "\n".join(lines)


def _described(pack: Pack) -> str:
    configs = [member.config for member in pack]
    layers = ", ".join(map(str, sorted({config.data.layer for config in configs})))
    rounds = len(rounds_of(configs, configs[0].mesh.member))
    widest_k, steps = widest(configs).sae.k, configs[0].run.steps
    return (
        f"{len(pack)} runs on layer {layers}, k up to {widest_k}, in {rounds} rounds a step, "
        f"{steps} steps of {configs[0].data.batch} rows"
    )


def _seeds(members: Sequence[Member]) -> str:
    """A word on seeds that keep runs apart, or that make no difference."""
    configs = [member.config for member in members]
    if len({config.run.seed for config in configs}) == 1:
        return ""
    ordered = any(config.data.seed is None for config in configs)
    drawn = any(_draws_weights(config) for config in configs)
    if ordered and drawn:
        return (
            "each run.seed also orders the rows: with one data.seed runs of all seeds share packs"
        )
    if not ordered and not drawn:
        return (
            "no weight is drawn and data.seed orders the rows: runs of several run.seed are equal"
        )
    return ""


def _draws_weights(config: Config) -> bool:
    """Whether a run's first weights depend on its seed."""
    sae = config.sae
    inits = (sae.encoder_init, sae.decoder_init, sae.b_dec_init)
    return any(init in ("normal", "uniform", "random") for init in inits)
