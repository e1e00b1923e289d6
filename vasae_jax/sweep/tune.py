"""Training points that a tuner asks for."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vasae_jax.config import Config
from vasae_jax.sweep.grid import Point
from vasae_jax.sweep.points import SWEEP, members_of, named, read_members, write_members
from vasae_jax.sweep.results import measured
from vasae_jax.sweep.run import Asked, planned, write_results
from vasae_jax.sweep.standing import standing
from vasae_jax.sweep.train import Planner, train_packs
from vasae_jax.training.pack.rules import Rules


def train_points(
    base: Config, points: Iterable[Point], out: str, rules: Rules | None = None
) -> list[dict[str, Any]]:
    """Train and measure some points of a sweep that grows, those together that can be.

    Points that ``out`` holds already are not trained again. All that were ever asked for are in
    its table, which the verbs of ``vasae sweep`` read.

    Args:
        base: what all points have in common.
        points: what each sets instead, by dotted name, such as ``{"optim.lr": 2e-3}``.
        out: directory of the sweep.
        rules: when a run ends before its last step.

    Returns:
        For each point its measures by dotted name, such as ``unmasked.fvu``, with ``id`` and
        ``status``. A run that diverged before its first checkpoint has no others.

    Raises:
        UserError: a setting cannot be used (before anything starts), or a pack failed.
        Stopped: a signal asked for it; progress is kept.
    """
    grid = tuple(points)
    asked = members_of(base, grid, out)
    before = read_members(Path(out)) if (Path(out) / SWEEP).exists() else []
    known = named(list({member.id: member for member in (*before, *asked)}.values()))
    planner = Planner(asked)
    write_members(Path(out), known)
    try:
        train_packs(planned(asked, planner, Asked()), rules or Rules())
    finally:
        write_results(Path(out), known)
    of_point = [members_of(base, (point,), out)[0] for point in grid]
    return [{"id": one.id, "status": standing(one).status, **measured(one)} for one in of_point]
