"""Checkpoints of a run: the only file that knows Orbax.

A checkpoint is one step of ``RUN/checkpoints`` with two items, ``params`` and ``rest`` (all
else of the train state), so that a reader of the dictionary needs no optimiser. Orbax
writes to a temporary directory and renames it, so a killed save leaves the one before it.
Before that, each item gets the digests of its files; they are compared before it is read.
"""

import contextlib
import itertools
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from vasae_jax.cache.store import reason
from vasae_jax.config import RunConfig
from vasae_jax.distributed.hosts import broadcast_from_first, is_first
from vasae_jax.sae import Params
from vasae_jax.training.digests import (
    CHECKPOINTS,
    ITEMS,
    damage_of,
    saved_steps,
    write_digests,
)
from vasae_jax.training.log import print_once
from vasae_jax.training.state import TrainState
from vasae_jax.training.status import WeightCheck
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import require_space, require_utf8, sha256_bytes, write_error
from vasae_jax.utils.replace import refuse_links
from vasae_jax.utils.signals import quiet_orbax
from vasae_jax.utils.sizes import FREE, GROWTH
from vasae_jax.utils.streams import note

_DELETED = "deleted"
quiet_orbax()


class _Digesting(ocp.StandardCheckpointHandler):  # type: ignore[misc]
    """Orbax's handler of an item, which gets digests when all processes have written it.

    Orbax calls ``finalize`` on the first process, in the background; ``judge`` raises for what
    must not be saved.
    """

    def __init__(self, judge: Callable[[], None]) -> None:
        super().__init__()
        self._judge = judge

    def finalize(self, directory: os.PathLike[str]) -> None:
        """Finish the item's files and digest them."""
        self._judge()
        super().finalize(directory)
        write_digests(Path(directory))


class Checkpoints(contextlib.AbstractContextManager["Checkpoints"]):
    """The checkpoints of one run directory; use as a context manager."""

    def __init__(
        self, run: str | os.PathLike[str], *, keep: int = 2, keep_every: int | None = None
    ) -> None:
        """Open ``run``/checkpoints, creating it, and remove what a killed writer left there.

        Args:
            run: its directory.
            keep: newest steps that are kept.
            keep_every: also kept are steps that are a multiple of this.

        Raises:
            UserError: it cannot be created, its path is not UTF-8, or it or something in it is a
                link.
        """
        require_utf8(run)
        self.run = Path(run)
        directory = self.run.absolute() / CHECKPOINTS
        refuse_links(self.run, [CHECKPOINTS])
        refuse_links(directory, ["*"])
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(directory, error) from error
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            keep_period=keep_every,
            # Moved there in one go, so that a killed deletion leaves no half of a step.
            todelete_subdir=_DELETED,
            # The runs of a pack save side by side, and each has processes that wait for another.
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                barrier_sync_key_prefix=sha256_bytes(os.fspath(run).encode())[:16]
            ),
        )
        self._directory, self._failed = directory, False
        self._weights = WeightCheck()
        self._hook_before = sys.unraisablehook
        sys.unraisablehook = partial(_all_but_late_writes, sys.unraisablehook)
        if is_first():
            _remove_leftovers(directory)
        handlers = ocp.handlers.DefaultCheckpointHandlerRegistry()
        for item in ITEMS:
            handler = _Digesting(self._weights.judge)
            handlers.add(item, ocp.args.StandardSave, handler)
            handlers.add(item, ocp.args.StandardRestore, handler)
        self._manager = ocp.CheckpointManager(directory, options=options, handler_registry=handlers)

    def __exit__(self, *error: object) -> None:
        """Wait for a save under way and close; raises what :meth:`save` does."""
        self.close()

    def close(self) -> None:
        """Wait for a save under way and close; raises what :meth:`save` does."""
        with self._writing("the last checkpoint"):
            self._manager.close()
        if not self._failed:  # otherwise writes may still end
            sys.unraisablehook = self._hook_before
        if is_first():
            shutil.rmtree(self._directory / _DELETED, ignore_errors=True)

    def latest(self) -> int | None:
        """The last step saved whole, or None; raises what :meth:`steps` does."""
        return max(self.steps(), default=None)

    def steps(self) -> list[int]:
        """All steps saved whole, in order; a save under way is waited for.

        Raises:
            UserError: that save has failed.
        """
        with self._writing("the last checkpoint"):
            self._manager.wait_until_finished()
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: TrainState) -> None:
        """Save ``state`` as ``step``.

        The write goes on in the background after the arrays have left the device, or on CPU
        were copied; the caller may then overwrite them.

        Raises:
            UserError: the disk is full or not writable; or the save before could not end, since
                that was so, or since its state was not finite or had exploded.
        """
        if step in self.steps():
            return
        # Asked before, since a write that fails half-way is reported from many threads at once.
        require_space(self._directory, sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
        if jax.default_backend() == "cpu":  # Orbax reads the buffers there, and a step reuses them
            state = jax.block_until_ready(jax.tree.map(jnp.copy, state))
        self._weights.measure(step, state.params, state.moments)
        rest = state._asdict()
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(rest.pop("params")), rest=ocp.args.StandardSave(rest)
        )
        with self._writing(f"checkpoint of step {step}"):
            self._manager.save(step, args=items, force=True)
        self._clear()

    def damage(self, step: int) -> str | None:
        """The sentence for a damaged checkpoint, or None; all files are compared with digests."""
        return damage_of(self._directory / str(step))

    def delete(self, step: int) -> None:
        """Delete a checkpoint; to be called on all processes."""
        self._manager.delete(step)
        self._clear()

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state saved as ``step``, laid out and sharded as ``like``.

        Raises:
            UserError: the checkpoint cannot be read or has other shapes.
        """
        rest = like._asdict()
        items = ocp.args.Composite(
            params=ocp.args.StandardRestore(rest.pop("params")),
            rest=ocp.args.StandardRestore(rest),
        )
        try:
            saved = self._manager.restore(step, args=items)
        except Exception as error:  # Orbax raises Exception itself
            raise _unreadable(self._directory / str(step), error) from error
        self._weights.begin(step, saved["params"])
        return type(like)(params=saved["params"], **saved["rest"])

    def raw(self, step: int) -> dict[str, Any]:
        """Everything but the parameters that was saved as ``step``, laid out as it was."""
        items = ocp.args.Composite(rest=ocp.args.StandardRestore())
        rest: dict[str, Any] = self._manager.restore(step, args=items)["rest"]
        return rest

    @contextlib.contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        """Turn Orbax's errors into one sentence: of this save, or of one in the background."""
        try:
            yield
        except (OSError, ValueError) as error:
            self._failed = True
            why = (isinstance(error, OSError) and error.strerror) or reason(error)
            raise UserError(
                f"{what} cannot be written to {self._directory} ({why}); "
                "expected a writable place with free space; the checkpoints before it are kept"
            ) from error

    def _clear(self) -> None:
        """Delete the steps that Orbax has moved out of the way."""
        if is_first():
            for step in (self._directory / _DELETED).glob("*"):
                shutil.rmtree(step, ignore_errors=True)


def open_checkpoints(run: RunConfig) -> Checkpoints:
    """The checkpoints of a run, as many as it is to keep."""
    return Checkpoints(run.out, keep=run.keep, keep_every=run.keep_every or None)


def load_params(run: str | os.PathLike[str]) -> tuple[int, Params]:
    """The last step of a run and its parameters on one device, whatever mesh trained it.

    The run may be training meanwhile: where it deletes the step that is being read, the one that
    is the last by then is read instead.

    Raises:
        UserError: ``run`` has no checkpoint, or one that is damaged or cannot be read.
    """
    require_utf8(run)
    directory = Path(run).absolute() / CHECKPOINTS
    if not directory.is_dir():
        raise UserError(f"{run} has no checkpoints; expected the directory of a run of vasae train")
    while steps := saved_steps(directory):
        place = directory / str(steps[-1])
        try:
            return steps[-1], _read_params(place)
        except UserError:
            if place.is_dir():
                raise
        except OSError as error:
            if place.is_dir():
                raise _unreadable(place, error) from error
        note(f"step {steps[-1]} of {run} was deleted as it was read: reading the last one left")
    raise UserError(f"{run} has no finished checkpoint yet; expected at least one")


def _read_params(step: Path) -> Params:
    """The parameters of a checkpoint; raises UserError or OSError."""
    if damage := damage_of(step, ["params"]):
        raise UserError(
            f"{damage}; expected the files that this run's vasae train wrote, whole (vasae train "
            "with --run.skip-damaged goes on from the step before)"
        )
    item, device = step / "params", SingleDeviceSharding(jax.devices()[0])
    try:
        with ocp.StandardCheckpointer() as reader:
            metadata = reader.metadata(item).item_metadata
            if metadata is None:
                raise ValueError("its metadata cannot be read")
            like = {
                name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)
                for name, leaf in metadata.tree.items()
            }
            _check_growth(item, like)
            params: Params = reader.restore(item, like)
            return params
    except Exception as error:  # Orbax raises Exception itself
        raise _unreadable(item, error) from error


def _check_growth(item: Path, like: dict[str, jax.ShapeDtypeStruct]) -> None:
    """Raise ValueError for arrays that are much larger than their files, which are compressed."""
    stated = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in like.values())
    stored = sum(path.stat().st_size for path in item.rglob("*") if path.is_file())
    if stated > max(FREE, GROWTH * stored):
        raise ValueError(f"arrays of {stated:,} bytes in {stored:,}")


def _all_but_late_writes(
    report: "Callable[[sys.UnraisableHookArgs], None]", error: "sys.UnraisableHookArgs"
) -> None:
    """Report an error that no code could catch, except from writes that outlive their failed save.

    Orbax has closed the event loop that those report to.
    """
    if str(error.exc_value) != "Event loop is closed":
        report(error)


def _remove_leftovers(directory: Path) -> None:
    """Remove what a writer that was killed in a save or in a deletion left."""
    leftovers = [*directory.glob("*.orbax-checkpoint-tmp*"), *(directory / _DELETED).glob("*")]
    if leftovers:
        names = ", ".join(sorted(path.relative_to(directory).as_posix() for path in leftovers))
        print_once(f"removing what a stopped save or deletion left in {directory}: {names}")
    for path in (*leftovers, directory / _DELETED):
        shutil.rmtree(path, ignore_errors=True)


def _unreadable(directory: Path, error: Exception) -> UserError:
    """One sentence; TensorStore's specification, pages long, is left out of the reason."""
    reason = str(error.__cause__ or error).partition("\n")[0].partition(" [tensorstore_spec")[0]
    return UserError(
        f"{directory} holds no checkpoint that can be read ({reason or type(error).__name__}); "
        "expected the files that this run's vasae train wrote, whole"
    )


def step_to_resume(kept: Sequence[Checkpoints], *, skip_damaged: bool) -> int:
    """The last step of which all runs have an undamaged checkpoint; 0 where none has kept any.

    With ``skip_damaged`` a step with a damaged checkpoint is passed over, and deleted once an
    undamaged one before it is reached.

    Raises:
        UserError: the runs have no step in common, its checkpoint is damaged, or with
            ``skip_damaged`` those of all steps are.
    """
    steps = common_steps(kept)
    for place, step in enumerate(steps):
        damage = broadcast_from_first(partial(_first_damage, kept, step))
        if not damage:
            for checkpoints, damaged in itertools.product(kept, steps[:place]):
                checkpoints.delete(damaged)
            return step
        if not skip_damaged or step == steps[-1]:
            raise UserError(f"{damage}; {_expected(steps[place + 1 :])}")
        print_once(f"{damage}: passed over")
    return 0


def common_steps(kept: Sequence[Checkpoints]) -> list[int]:
    """The steps that all runs have kept, the last one first; [] where none has kept any.

    A pack that is killed while it saves leaves runs one checkpoint apart: those ahead go back
    to the checkpoint before, or to the start where they have only one.
    """
    steps = [checkpoints.steps() for checkpoints in kept]
    common = set(steps[0]).intersection(*steps[1:])
    if common or max(map(len, steps)) <= 1:
        return sorted(common, reverse=True)
    last = ", ".join(
        f"{checkpoints.run} at {of_run[-1] if of_run else 0}"
        for checkpoints, of_run in zip(kept, steps, strict=True)
    )
    raise UserError(
        f"the runs of the pack stand at different steps ({last}) and have kept none in common; "
        "expected runs that were trained together: train the others apart from them"
    )


def _first_damage(kept: Sequence[Checkpoints], step: int) -> str:
    return next(filter(None, (checkpoints.damage(step) for checkpoints in kept)), "")


def _expected(before: Sequence[int]) -> str:
    if before:
        return f"expected it whole, or --run.skip-damaged to go on after step {before[0]} instead"
    return (
        "expected it whole; no checkpoint before it is left, and --run.overwrite starts again "
        "from nothing"
    )
