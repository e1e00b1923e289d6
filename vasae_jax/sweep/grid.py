"""Points of a sweep, put together from axes.

    product(axis("sae.k", 16, 32), axis("run.seed", 0, 1))       4 points, the last axis fastest
    zip(axis("sae.k", 16, 32), axis("optim.lr", 4e-3, 2e-3))     2 points, values side by side
    chain(first, second)                                         the points of both
    where(grid, lambda point: point["sae.k"] < 64)               the points that meet a condition

A point is a mapping from the dotted names of settings to their values.
"""

import builtins
import itertools
from collections.abc import Callable, Mapping
from typing import Any

from vasae_jax.utils.errors import UserError

Point = Mapping[str, Any]
"""Settings by dotted name, such as ``sae.k``."""
Grid = tuple[Point, ...]


def axis(name: str, *values: Any) -> Grid:
    """A point for each value of one setting."""
    if not values:
        raise UserError(f"axis {name} has no values; expected at least one")
    return tuple({name: value} for value in values)


def product(*grids: Grid) -> Grid:
    """Every combination of a point of each grid; the last grid varies fastest."""
    return tuple(_merged(points) for points in itertools.product(*grids))


def zip(*grids: Grid) -> Grid:
    """The first points of all grids merged, then the second ones, and so on.

    Raises:
        UserError: the grids have different lengths.
    """
    lengths = [len(grid) for grid in grids]
    if len(set(lengths)) > 1:
        raise UserError(f"zip has grids of {lengths} points; expected equal numbers")
    return tuple(_merged(points) for points in builtins.zip(*grids, strict=True))


def chain(*grids: Grid) -> Grid:
    """The points of all grids, one grid after the other."""
    return tuple(itertools.chain(*grids))


def where(grid: Grid, keep: Callable[[Point], bool]) -> Grid:
    """The points for which ``keep`` is true."""
    return tuple(point for point in grid if keep(point))


def _merged(points: tuple[Point, ...]) -> Point:
    merged: dict[str, Any] = {}
    for point in points:
        for name, value in point.items():
            if name in merged:
                raise UserError(f"two axes set {name}; expected one of them")
            merged[name] = value
    return merged
