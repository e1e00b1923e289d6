"""Training the packs of a sweep one after another, and measuring their runs."""

import json
import os
from collections.abc import Iterable, Sequence

import jax

from vasae_jax.cache import Cache
from vasae_jax.cache.manifest import Manifest
from vasae_jax.distributed.hosts import broadcast_from_first
from vasae_jax.evaluation.log import evaluate_and_log
from vasae_jax.sweep.packs import Pack, by_step, device_memory, most_members
from vasae_jax.sweep.points import Member
from vasae_jax.sweep.status import (
    DONE,
    MEASURES,
    RUNNING,
    TRAINED,
    WAITING,
    kept_steps,
    run_status,
)
from vasae_jax.training.checks import alike, check_cache, check_settings, features
from vasae_jax.training.log import print_once
from vasae_jax.training.loop import run_pack
from vasae_jax.training.pack import rounds_of, widest
from vasae_jax.training.run import open_trained
from vasae_jax.training.shapes import Memory
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import write_json


class Planner:
    """Says which runs may train together, and how many of them fit on a device."""

    def __init__(self, members: Sequence[Member], platform: str | None = None) -> None:
        """For ``members``, which are checked: UserError names the first that cannot be run."""
        self._caches = {
            url: Cache.open(url) for url in {member.config.data.cache for member in members}
        }
        self._platform = platform or jax.default_backend()
        self._layers = len({member.config.data.input_site for member in members})
        for member in members:
            try:
                check_settings(member.config)
                check_cache(member.config, self._caches[member.config.data.cache])
            except UserError as error:
                raise UserError(f"point {member.id} ({member.name}): {error}") from error

    def key(self, member: Member) -> object:
        """Equal for runs that may train together."""
        config, manifest = member.config, self._manifest(member)
        on_device = features(config, manifest.vocab_size) // config.mesh.model
        return alike(config, on_device, self._platform)

    def most(self, member: Member) -> int:
        """How many runs like this one a pack may have, over all devices along ``member``."""
        config, manifest = member.config, self._manifest(member)
        each = most_members(config, manifest, self._platform, self._layers)
        return each * config.mesh.member

    def memory(self, pack: Pack) -> Memory:
        """What a pack takes on each device."""
        configs = [member.config for member in pack]
        config, layers = widest(configs), len({config.data.input_site for config in configs})
        rounds = len(rounds_of(configs, config.mesh.member))
        manifest = self._manifest(pack[0])
        return device_memory(config, manifest, self._platform, rounds=rounds, layers=layers)

    def _manifest(self, member: Member) -> Manifest:
        return self._caches[member.config.data.cache].manifest


def train_packs(packs: Iterable[Pack]) -> None:
    """Train what is missing of each pack and measure its runs; a pack that fails lets others go on.

    Raises:
        UserError: packs failed, each of which has said why.
        Stopped: SIGINT or SIGTERM asked for it; what was trained is kept.
    """
    packs = list(packs)
    failed = 0
    for number, pack in enumerate(packs, 1):
        try:
            print_once(f"pack {number} of {len(packs)}: {len(pack)} runs")
            train_one(pack)
        except UserError as error:
            failed += 1
            print_once(f"pack {number} of {len(packs)} failed: {error}")
    if failed:
        raise UserError(f"{failed} of {len(packs)} packs failed, as said above; expected none")


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
    """The unfinished runs of a pack in parts that resume together, as the first process sees."""

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
