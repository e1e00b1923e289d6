"""The step that a run, or a pack of them, goes on after."""

from collections.abc import Sequence
from functools import partial

from vasae_jax.devices.distributed import said_by_first
from vasae_jax.system.errors import UserError
from vasae_jax.training.checkpoint import Checkpoints
from vasae_jax.training.log import say


def step_to_resume(kept: Sequence[Checkpoints], *, fall_back: bool) -> int:
    """The last step that all runs have kept, found whole; 0 where none has kept any.

    With ``fall_back`` a step of which a checkpoint is damaged is passed over, and deleted
    once one before it is found whole.

    Raises:
        UserError: the runs have no step in common, its checkpoint is damaged, or with
            ``fall_back`` those of all steps are.
    """
    steps = common_steps(kept)
    wrong = ""
    for place, step in enumerate(steps):
        wrong = said_by_first(partial(_damage, kept, step))
        if not wrong:
            _drop(kept, steps[:place])
            return step
        if not fall_back:
            raise UserError(f"{wrong}; {_expected(steps[place + 1 :])}")
        say(f"{wrong}: passed over")
    if steps:
        raise UserError(f"{wrong}; {_expected([])}")
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
    said = ", ".join(
        f"{checkpoints.run} at {own[-1] if own else 0}"
        for checkpoints, own in zip(kept, steps, strict=True)
    )
    raise UserError(
        f"the runs of the pack stand at different steps ({said}) and have kept none in common; "
        "expected runs that were trained together: train the others apart from them"
    )


def _damage(kept: Sequence[Checkpoints], step: int) -> str:
    return next(filter(None, (checkpoints.damage(step) for checkpoints in kept)), "")


def _drop(kept: Sequence[Checkpoints], steps: Sequence[int]) -> None:
    for checkpoints in kept:
        for step in steps:
            checkpoints.delete(step)


def _expected(before: Sequence[int]) -> str:
    if before:
        return f"expected it whole, or --run.fall-back to go on after step {before[0]} instead"
    return (
        "expected it whole; no checkpoint before it is left, and --run.overwrite starts again "
        "from nothing"
    )
