"""How the runs of a sweep become packs, and packs jobs."""

import math
from collections.abc import Callable, Hashable, Sequence

from vasae_jax.sweep.points import Member
from vasae_jax.sweep.standing import kept_steps
from vasae_jax.system.errors import UserError

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
