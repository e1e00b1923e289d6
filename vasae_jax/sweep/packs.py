"""Packs of a sweep: which runs may train together, how many fit on a device, and their training."""

import itertools
import json
import math
import os
from collections.abc import Callable, Hashable, Sequence

import jax

from vasae_jax.cache import Cache
from vasae_jax.cache.manifest import Manifest
from vasae_jax.config import Config
from vasae_jax.distributed.hosts import broadcast_from_first
from vasae_jax.distributed.mesh import DATA, MEMBER, MODEL
from vasae_jax.evaluation.log import evaluate_and_log
from vasae_jax.sae import choose_execution
from vasae_jax.sweep.points import Member
from vasae_jax.sweep.status import DONE, MEASURES, RUNNING, TRAINED, WAITING, run_status
from vasae_jax.training.checks import alike, check_cache, check_settings, features
from vasae_jax.training.digests import kept_steps
from vasae_jax.training.log import print_once
from vasae_jax.training.loop import run_pack
from vasae_jax.training.pack import rounds_of, widest
from vasae_jax.training.run import open_trained
from vasae_jax.training.run_dir import check_run
from vasae_jax.training.shapes import Memory, memory, shapes_of
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import write_json

Pack = tuple[Member, ...]
Key = Callable[[Member], Hashable]
"""What the runs of a pack have in common."""
SHARE = {"cpu": 0.4, "gpu": 0.7, "tpu": 0.8}
"""Fraction of a device's memory that runs may fill; the rest is for what a step needs besides."""


def device_bytes() -> int:
    """Memory of one device; on CPU that of the machine, which its devices share."""
    stats = jax.local_devices()[0].memory_stats() or {}
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(stats.get("bytes_limit") or machine)


def device_memory(
    config: Config, manifest: Manifest, platform: str, *, rounds: int = 1, layers: int = 1
) -> Memory:
    """Memory on a device of ``rounds`` runs like ``config``, over ``layers`` layers.

    The devices are not known yet: one is assumed to hold the rows where the mesh says ``auto``.
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
    """Read ``I/N`` as two numbers, I from 0; raises UserError for any other text."""
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise UserError(f"--shard is {text!r}; expected I/N with I from 0 to N - 1, as in 0/4")
    return int(index), int(count)


class Planner:
    """Decides which runs may train together, and how many of them fit on a device.

    Raises:
        UserError: settings of a run cannot be used; the message names the run.
    """

    def __init__(self, members: Sequence[Member], platform: str | None = None) -> None:
        self._caches = {
            url: Cache.open(url) for url in {member.config.data.cache for member in members}
        }
        self._platform = platform or jax.default_backend()
        self._layers = len({member.config.data.input_site for member in members})
        for member in members:
            try:
                check_settings(member.config)
                check_cache(member.config, self._caches[member.config.data.cache])
                check_run(member.config, self._caches[member.config.data.cache])
            except UserError as error:
                raise UserError(f"point {member.id} ({member.name}): {error}") from error

    def key(self, member: Member) -> object:
        """Equal for runs that may train together."""
        config, manifest = member.config, self._manifest(member)
        on_device = features(config, manifest.vocab_size) // config.mesh.model
        return alike(config, on_device, self._platform)

    def most(self, member: Member) -> int:
        """How many runs like this one a pack may have, over all devices along ``member``."""
        each = most_members(member.config, self._manifest(member), self._platform, self._layers)
        return each * member.config.mesh.member

    def memory(self, pack: Pack) -> Memory:
        """What a pack takes on each device."""
        configs = [member.config for member in pack]
        config, layers = widest(configs), len({config.data.input_site for config in configs})
        rounds = len(rounds_of(configs, config.mesh.member))
        manifest = self._manifest(pack[0])
        return device_memory(config, manifest, self._platform, rounds=rounds, layers=layers)

    def _manifest(self, member: Member) -> Manifest:
        return self._caches[member.config.data.cache].manifest


def in_pack_order(members: Sequence[Member], key: Key) -> list[Member]:
    """The runs in an order in which those that may train together are adjacent, by layer."""
    groups: dict[Hashable, int] = {}  # in order of their first runs
    place = {member.id: groups.setdefault(key(member), len(groups)) for member in members}
    return sorted(members, key=lambda member: (place[member.id], member.config.data.input_site))


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
    for _, alike_members in itertools.groupby(ordered, key):
        group = list(alike_members)
        parts = math.ceil(len(group) / max(1, most(group[0])))
        packs += [tuple(take_shard(group, part, parts)) for part in range(parts)]
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


def train_packs(packs: Sequence[Pack]) -> None:
    """Train what is missing of each pack and measure its runs; a pack that fails lets others go on.

    Raises:
        UserError: packs failed; the reason of each was printed.
        Stopped: a signal stopped it; what was trained is kept.
    """
    failed = 0
    for number, pack in enumerate(packs, 1):
        try:
            print_once(f"pack {number} of {len(packs)}: {len(pack)} runs")
            train_one(pack)
        except UserError as error:
            failed += 1
            print_once(f"pack {number} of {len(packs)} failed: {error}")
    if failed:
        raise UserError(f"{failed} of {len(packs)} packs failed, as printed above; expected none")


def train_one(pack: Pack) -> None:
    """Train what is missing of one pack, and measure its runs."""
    for part in _parts(pack):
        run_pack([member.config for member in part])
    if jax.process_count() > 1:
        print_once(
            "the runs of the pack are trained; the same command in one process measures them"
        )
        return
    for member in pack:
        measure(member)


def _parts(pack: Pack) -> list[Pack]:
    """The unfinished runs of a pack in parts that resume together, as the first process sees it."""

    def unfinished() -> str:
        missing = tuple(run for run in pack if run_status(run).status in (WAITING, RUNNING))
        return json.dumps([[member.id for member in part] for part in by_step(missing)])

    by_id = {member.id: member for member in pack}
    parts = json.loads(broadcast_from_first(unfinished))
    return [tuple(by_id[key] for key in part) for part in parts]


def measure(member: Member) -> None:
    """Measure a run that has a checkpoint and write it in its directory, unless that was done."""
    status = run_status(member).status
    if status in (DONE, WAITING, RUNNING) or not kept_steps(member.path):
        return
    file = member.path / MEASURES
    if status == TRAINED or not file.exists():
        print_once(f"measuring {member.id} ({member.name})")
        write_json(file, evaluate_and_log(open_trained(os.fspath(member.path)), member.path))
