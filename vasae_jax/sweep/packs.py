"""How the runs of a sweep become packs, and packs jobs."""

import math
import os
from collections.abc import Callable, Hashable, Sequence

import jax

from vasae_jax.aot import Slice, compile_program, cost_of
from vasae_jax.cache import Cache
from vasae_jax.cache.manifest import Manifest
from vasae_jax.config import Config
from vasae_jax.distributed.mesh import DATA, MEMBER, MODEL
from vasae_jax.sae import choose_execution
from vasae_jax.sweep.points import Member
from vasae_jax.sweep.table import kept_steps
from vasae_jax.training.pack import rounds_of, widest
from vasae_jax.training.shapes import Memory, memory, shapes_of
from vasae_jax.utils.errors import UserError

# How many runs of a pack a device holds.


SHARE = {"cpu": 0.4, "gpu": 0.7, "tpu": 0.8}
"""Share of a device's memory that runs may fill; the rest is for what a step needs besides."""


def device_bytes() -> int:
    """Memory of one device; on CPU that of the machine, by which all its devices are fed."""
    stats = jax.local_devices()[0].memory_stats() or {}
    found: int = stats.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf(
        "SC_PHYS_PAGES"
    )
    return found


def on_device(
    config: Config, manifest: Manifest, platform: str, *, rounds: int = 1, layers: int = 1
) -> Memory:
    """What ``rounds`` runs like ``config``, of so many layers, take on a device.

    Before a sweep's devices are there: where the mesh takes what is left for rows, none are
    thought to split them.
    """
    mesh, execution = config.mesh, choose_execution(config.sae.execution, platform)
    axes = {DATA: mesh.rows_over or 1, MODEL: mesh.model, MEMBER: mesh.member}
    shapes = shapes_of(config, manifest)
    return memory(config, shapes, axes, execution, rounds=rounds, layers=layers)


def most_members(config: Config, manifest: Manifest, platform: str, layers: int) -> int:
    """Runs like this one that a device holds at once, at least 1, of so many layers."""
    one = on_device(config, manifest, platform, layers=layers)
    free = SHARE.get(jax.default_backend(), 0.5) * device_bytes() - (one.total - one.state)
    return max(1, int(free // one.state))


Pack = tuple[Member, ...]
Key = Callable[[Member], Hashable]
"""What the runs of a pack have in common."""


def parse_shard(text: str) -> tuple[int, int]:
    """``I/N`` as two numbers, I from 0; UserError where it is none."""
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise UserError(f"--shard is {text!r}; expected I/N with I from 0 to N - 1, as in 0/4")
    return int(index), int(count)


def in_pack_order(members: Sequence[Member], key: Key) -> list[Member]:
    """The runs with those that may train together next to one another, and of these by layer."""
    groups: dict[Hashable, list[Member]] = {}
    for member in members:
        groups.setdefault(key(member), []).append(member)
    return [
        member
        for group in groups.values()
        for member in sorted(group, key=lambda one: one.config.data.layer)
    ]


def sliced(ordered: Sequence[Member], index: int, count: int) -> Sequence[Member]:
    """Part ``index`` of ``count`` of runs in pack order: equal parts, the same on every host."""
    size = len(ordered)
    return ordered[index * size // count : (index + 1) * size // count]


def packs_of(ordered: Sequence[Member], key: Key, most: Callable[[Member], int]) -> list[Pack]:
    """Packs of neighbours that may train together, of about equal size.

    Args:
        ordered: runs in pack order.
        key: what runs of one pack have in common.
        most: how many runs like a given one a pack may have.
    """
    packs: list[Pack] = []
    start = 0
    while start < len(ordered):
        same = key(ordered[start])
        stop = start
        while stop < len(ordered) and key(ordered[stop]) == same:
            stop += 1
        group = ordered[start:stop]
        parts = math.ceil(len(group) / max(1, most(group[0])))
        packs += [tuple(sliced(group, part, parts)) for part in range(parts)]
        start = stop
    return packs


def by_step(pack: Pack) -> list[Pack]:
    """The runs of a pack that can go on together: those with a checkpoint in common, or none.

    The run that is furthest behind comes first; others go back to its step where they have it.
    """
    kept = {member.id: kept_steps(member.path) or [0] for member in pack}
    left, parts = list(pack), []
    while left:
        step = min(kept[member.id][-1] for member in left)
        parts.append(tuple(member for member in left if step in kept[member.id]))
        left = [member for member in left if member not in parts[-1]]
    return parts


# The time of a pack on a TPU slice that is not there, as its compiler prices a step.


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
