"""How the runs of a sweep become packs: which may train together, and how many fit on a device."""

import math
import os
from collections.abc import Callable, Hashable, Sequence

import jax

from vasae_jax.cache.manifest import Manifest
from vasae_jax.config import Config
from vasae_jax.distributed.mesh import DATA, MEMBER, MODEL
from vasae_jax.sae import choose_execution
from vasae_jax.sweep.points import Member
from vasae_jax.sweep.status import kept_steps
from vasae_jax.training.shapes import Memory, memory, shapes_of
from vasae_jax.utils.errors import UserError

Pack = tuple[Member, ...]
Key = Callable[[Member], Hashable]
"""What the runs of a pack have in common."""
SHARE = {"cpu": 0.4, "gpu": 0.7, "tpu": 0.8}
"""Share of a device's memory that runs may fill; the rest is for what a step needs besides."""


def device_bytes() -> int:
    """Memory of one device; on CPU that of the machine, which its devices share."""
    stats = jax.local_devices()[0].memory_stats() or {}
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(stats.get("bytes_limit") or machine)


def device_memory(
    config: Config, manifest: Manifest, platform: str, *, rounds: int = 1, layers: int = 1
) -> Memory:
    """Memory on a device of ``rounds`` runs like ``config``, over ``layers`` layers.

    It is asked for before the devices are known: where the mesh gives all that are left to rows,
    one is assumed.
    """
    mesh, execution = config.mesh, choose_execution(config.sae.execution, platform)
    axes = {DATA: mesh.rows_over or 1, MODEL: mesh.model, MEMBER: mesh.member}
    shapes = shapes_of(config, manifest)
    return memory(config, shapes, axes, execution, rounds=rounds, layers=layers)


def most_members(config: Config, manifest: Manifest, platform: str, layers: int) -> int:
    """How many runs like this one a device holds, at least 1, in a sweep over ``layers`` layers."""
    single = device_memory(config, manifest, platform, layers=layers)
    free = SHARE.get(jax.default_backend(), 0.5) * device_bytes() - (single.total - single.state)
    return max(1, int(free // single.state))


def parse_shard(text: str) -> tuple[int, int]:
    """``I/N`` as two numbers, I from 0; UserError where it is none."""
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise UserError(f"--shard is {text!r}; expected I/N with I from 0 to N - 1, as in 0/4")
    return int(index), int(count)


def in_pack_order(members: Sequence[Member], key: Key) -> list[Member]:
    """The runs in an order in which those that may train together are adjacent, by layer."""
    groups: dict[Hashable, list[Member]] = {}
    for member in members:
        groups.setdefault(key(member), []).append(member)
    return [
        member
        for group in groups.values()
        for member in sorted(group, key=lambda member: member.config.data.input_site)
    ]


def take_shard(ordered: Sequence[Member], index: int, count: int) -> Sequence[Member]:
    """Part ``index`` of ``count`` of runs in pack order: equal parts, the same on every host."""
    size = len(ordered)
    return ordered[index * size // count : (index + 1) * size // count]


def packs_of(ordered: Sequence[Member], key: Key, most: Callable[[Member], int]) -> list[Pack]:
    """Adjacent runs that may train together as packs of about equal size.

    Args:
        ordered: runs in pack order.
        key: what runs of one pack have in common.
        most: how many runs like this one a pack may have.
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
        packs += [tuple(take_shard(group, part, parts)) for part in range(parts)]
        start = stop
    return packs


def by_step(pack: Pack) -> list[Pack]:
    """The parts of a pack that can resume together: runs with a checkpoint in common, or none.

    The part of the run furthest behind is first; others go back to its step where they have it.
    """
    kept = {member.id: kept_steps(member.path) or [0] for member in pack}
    left, parts = list(pack), []
    while left:
        step = min(kept[member.id][-1] for member in left)
        parts.append(tuple(member for member in left if step in kept[member.id]))
        left = [member for member in left if member not in parts[-1]]
    return parts
