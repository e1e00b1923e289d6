"""One run out of a sweep."""

from pathlib import Path

from vasae_jax.sweep.points import read_members
from vasae_jax.sweep.results import best_first, table
from vasae_jax.sweep.standing import DONE
from vasae_jax.system.errors import UserError


def chosen_run(out: Path, best: str | None, member: str | None) -> Path:
    """The directory of the run that is best by column ``best``, or of the one of id ``member``.

    Only runs that are done compete. An id may be cut short.

    Raises:
        UserError: ``out`` is no sweep, or no run, or more than one, is meant.
    """
    members = read_members(out)
    if best is not None:
        done = [row for row in table(members) if row["status"] == DONE]
        found = [row["id"] for row in best_first(done, best)[:1]] if done else []
        wanted = f"done run with {best}"
    else:
        found = [one.id for one in members if one.id.startswith(member or " ")]
        wanted = f"run {member}"
    if len(found) != 1:
        raise UserError(f"sweep {out} has {len(found)} of: {wanted}; expected one")
    return next(one.path for one in members if one.id == found[0])
