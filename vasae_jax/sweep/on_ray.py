"""Packs as tasks of Ray, which assigns devices and restarts the pack of a lost worker."""

import contextlib
import os
import socket
from collections.abc import Sequence
from typing import Any

from vasae_jax.config import Config
from vasae_jax.distributed.environment import reuse_memory
from vasae_jax.sweep.packs import Pack, train_one
from vasae_jax.training.log import print_once
from vasae_jax.utils.errors import UserError, first_line
from vasae_jax.utils.signals import quiet_libraries

RETRIES = 10
"""Times that a pack is started again after its worker was lost."""


def open_ray(on: str, base: Config, hosts: int) -> int:
    """Join the Ray cluster at ``ray://HEAD``, or start a local one for ``ray``.

    Returns:
        How many packs it can train side by side, at least 1.

    Raises:
        UserError: Ray is not installed, or cannot be reached.
    """
    if on != "ray" and not on.startswith("ray://"):
        raise UserError(f"--on is {on!r}; expected ray, or ray://HOST:PORT of a cluster's head")
    try:
        import ray
    except ImportError:
        raise UserError(
            "--on needs Ray, which is not installed; expected pip install 'vasae-jax[ray]'"
        ) from None
    try:
        if not ray.is_initialized():
            ray.init(address="local" if on == "ray" else on, log_to_driver=True)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"Ray cannot be reached at {on} ({first_line(error)})") from error
    kind, amount = _device(ray, base, hosts)
    packs = int(ray.cluster_resources().get(kind, 0) // (amount * hosts))
    if packs < 1:
        raise UserError(
            f"a pack takes {amount * hosts} {kind} of Ray, which has "
            f"{ray.cluster_resources().get(kind, 0):g}; expected at least as many"
        )
    return packs


def train_on_ray(packs: Sequence[Pack], hosts: int) -> None:
    """Train and measure packs as tasks; a pack that fails lets others go on.

    A lost worker's pack goes on from its last checkpoint on another one.

    Raises:
        UserError: packs failed; the reason of each was printed.
    """
    import ray

    running = {_submit(ray, pack, hosts): pack for pack in packs}
    failed, total = 0, len(running)
    try:
        while running:
            (ended,), _ = ray.wait(list(running), num_returns=1)
            pack = running.pop(ended)
            try:
                ray.get(ended)
                outcome = "is trained"
            except (ray.exceptions.RayError, UserError) as error:
                failed += 1
                outcome = f"failed: {getattr(error, 'cause', None) or error}"
            runs = ", ".join(member.id for member in pack)
            print_once(f"a pack {outcome} ({len(running)} of {total} left): {runs}")
    finally:
        for task in running:  # the driver was stopped: tasks save and end
            with contextlib.suppress(ray.exceptions.RayError):
                ray.cancel(task)
    if failed:
        raise UserError(f"{failed} of {total} packs failed, as printed above; expected none")


def _device(ray: Any, base: Config, hosts: int) -> tuple[str, int]:
    """The resource that a pack takes of each of its hosts, and how much of it."""
    resources, mesh = ray.cluster_resources(), base.mesh
    for kind in ("GPU", "TPU"):
        if resources.get(kind):
            return kind, max(1, mesh.member * mesh.model * max(1, mesh.rows_over) // hosts)
    return "CPU", 1


def _submit(ray: Any, pack: Pack, hosts: int) -> Any:
    """Submit a pack as a task; each has a fresh process, since JAX keeps devices until it ends."""
    if hosts > 1:
        coordinate = ray.remote(num_cpus=0, max_retries=RETRIES, max_calls=1)(_train_on_hosts)
        return coordinate.remote(pack, hosts)
    kind, amount = _device(ray, pack[0].config, hosts)
    task = ray.remote(max_retries=RETRIES, max_calls=1, **_resources(kind, amount))(_train)
    return task.remote(pack)


def _resources(kind: str, amount: int) -> dict[str, Any]:
    if kind == "TPU":
        return {"num_cpus": 1, "resources": {"TPU": amount}}
    return {"num_cpus": 1, "num_gpus": amount if kind == "GPU" else 0}


def _train(pack: Pack, host: tuple[str, int, int] | None = None) -> None:
    """Train a pack alone, or as one ``host`` of several: address, number and count as of Hosts."""
    reuse_memory()
    quiet_libraries()
    if host is None:
        train_one(pack)
        return
    from vasae_jax.distributed.hosts import Hosts, joined

    with joined(Hosts(*host)):
        train_one(pack)


def _train_on_hosts(pack: Pack, hosts: int) -> None:
    """Train a pack over several hosts: one process each, joined by JAX's own runtime."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    kind, amount = _device(ray, pack[0].config, hosts)
    bundle = {"CPU": 1} | ({} if kind == "CPU" else {kind: amount})
    group = placement_group([bundle] * hosts, strategy="SPREAD")
    ray.get(group.ready())

    def on_host(index: int) -> dict[str, Any]:
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)
        return {"scheduling_strategy": strategy, "max_calls": 1, "max_retries": 0}

    try:
        head = ray.remote(num_cpus=0, **on_host(0))(_free_address)
        for _ in range(RETRIES):
            address = ray.get(head.remote())
            tasks = [
                ray.remote(**_resources(kind, amount), **on_host(index))(_train).remote(
                    pack, (address, index, hosts)
                )
                for index in range(hosts)
            ]
            try:
                ray.get(tasks)
                break
            except ray.exceptions.RayError as error:
                if isinstance(getattr(error, "cause", None), UserError):
                    raise
                print_once(f"a host of a pack was lost ({first_line(error)}): started again")
                ray.wait(tasks, num_returns=hosts)
        measuring = ray.remote(**_resources(kind, amount), **on_host(0))(_train)
        ray.get(measuring.remote(pack))
    finally:
        remove_placement_group(group)


def _free_address() -> str:
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    return f"{socket.gethostbyname(os.uname().nodename)}:{port}"
