"""A sweep, its points, and the runs that they stand for, each with a lasting id and a name."""

import contextlib
import json
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import filelock

from vasae_jax.cache import Cache
from vasae_jax.config import Config
from vasae_jax.config.overrides import flatten, from_dict, read_variable, similar_settings
from vasae_jax.sweep.grid import Grid, Point
from vasae_jax.training.log import print_once
from vasae_jax.training.run_dir import result_settings
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import sha256_bytes, write_error, write_json
from vasae_jax.utils.public import base_name
from vasae_jax.utils.read_json import LARGE, read_json_object
from vasae_jax.utils.replace import refuse_links
from vasae_jax.utils.shown import shown
from vasae_jax.utils.typed import fits, in_words

SWEEP, RUNS, LOCK = "sweep.json", "runs", "sweep.lock"
LOCK_SECONDS = 600
"""How long another process may take to write the table of a sweep."""
ID_DIGITS = 10
"""Hexadecimal digits of an id."""
ID_PATTERN = "[0-9a-f]" * ID_DIGITS
"""What every id matches, as a glob and as a regular expression."""
REFUSED = ("run.out", "run.overwrite", "run.skip_damaged")
"""Settings that a sweep sets itself, or that are no part of a run."""


def apply_point(base: Config, point: Point, number: int) -> Config:
    """``base`` with the settings of point ``number``, and whole numbers as floats: 8 is 8.0.

    Raises:
        UserError: an unknown setting (with the nearest one) or a value of a wrong type.
    """
    for name, value in point.items():
        hint = _hint(name, number)
        if not fits(value, hint):
            raise UserError(
                f"point {number} sets {name} to {value!r} ({type(value).__name__}); "
                f"expected {in_words(hint)}"
            )
        section, field = name.split(".")
        base = replace(base, **{section: replace(getattr(base, section), **{field: value})})
    return with_floats(base)


def with_floats(config: Config) -> Config:
    """``config`` with a float wherever a setting is one: of 8, -0.0 or a NumPy number as well."""
    sections = {field.name: getattr(config, field.name) for field in fields(config)}
    return replace(config, **{name: _with_floats(each) for name, each in sections.items()})


def _with_floats(section: Any) -> Any:
    """One section of settings with floats; a setting may also be a float among other things."""
    floats = {
        name: float(value) + 0.0
        for name, hint in get_type_hints(type(section)).items()
        if float in (hint, *get_args(hint))
        and isinstance(value := getattr(section, name), int | float)
        and not isinstance(value, bool)
    }
    return replace(section, **floats)


def _hint(name: str, number: int) -> Any:
    if name in REFUSED:
        raise UserError(f"point {number} sets {name}; expected a setting that shapes its run")
    if name not in flatten(Config()):
        similar = similar_settings(name)
        hint = f"did you mean {similar[0]}?" if similar else "expected one such as sae.k"
        raise UserError(f"point {number} sets {name}, which is no setting; {hint}")
    section, field = name.split(".")
    return get_type_hints(type(getattr(Config(), section)))[field]


@dataclass(frozen=True)
class Member:
    """One run of a sweep."""

    id: str
    """Hash of what shapes its result: settings other than the defaults, and the cache."""
    name: str
    """What varies over the sweep and its value here, such as ``k=32 seed=1``."""
    config: Config

    @property
    def path(self) -> Path:
        """The directory of its run."""
        return Path(self.config.run.out)


def members_of(base: Config, points: Grid, out: str) -> list[Member]:
    """The runs of a sweep in the order of its points; a point that comes twice is one run.

    Raises:
        UserError: there are none, a setting is unknown or of a wrong type, or a cache cannot be
            opened.
    """
    if not points:
        raise UserError("the sweep has no points; expected at least one")
    configs = [apply_point(base, point, number) for number, point in enumerate(points)]
    digests = {url: Cache.open(url).digest for url in {config.data.cache for config in configs}}
    by_id = {id_of(config, digests[config.data.cache]): config for config in configs}
    return with_names([_member(key, "", config, out) for key, config in by_id.items()])


def with_names(members: Sequence[Member]) -> list[Member]:
    """The runs, named by what varies over just these."""
    keys = varied([member.config for member in members])
    ends = [key.split(".")[1] for key in keys]
    labels = {key: key if ends.count(end) > 1 else end for key, end in zip(keys, ends, strict=True)}

    def name_of(settings: Mapping[str, Any]) -> str:
        return " ".join(f"{label}={_value(settings[key])}" for key, label in labels.items())

    return [
        replace(member, name=name_of(settings) or "the base")
        for member, settings in zip(members, shown_settings(members), strict=True)
    ]


def shown_settings(members: Sequence[Member]) -> list[dict[str, Any]]:
    """The settings of each run by name; of the place of its cache and its own, the last part.

    Where two caches share it, digits of the SHA-256 of each place follow.
    """
    caches = {url: base_name(url) for url in {member.config.data.cache for member in members}}
    ends = list(caches.values())
    for url, end in caches.items():
        if ends.count(end) > 1:
            caches[url] = f"{end}-{sha256_bytes(url.encode('utf-8', 'surrogatepass'))[:6]}"
    return [
        flatten(member.config)
        | {"data.cache": caches[member.config.data.cache], "run.out": member.path.name}
        for member in members
    ]


def id_of(config: Config, cache_digest: str) -> str:
    """A short hash of what shapes a run's result: the same wherever the run is kept."""
    defaults = flatten(Config())
    settings = flatten(with_floats(result_settings(config)))
    changed = {name: value for name, value in settings.items() if value != defaults[name]}
    text = json.dumps({**changed, "cache": cache_digest}, sort_keys=True)
    return sha256_bytes(text.encode())[:ID_DIGITS]


def varied(configs: Sequence[Config]) -> list[str]:
    """The settings in which runs differ, in the order of the settings."""
    flat = [flatten(config) for config in configs]
    return [
        name
        for name, value in (flat[0] if flat else {}).items()
        if name != "run.out" and any(other[name] != value for other in flat)
    ]


@contextlib.contextmanager
def sweep_lock(out: Path) -> Iterator[None]:
    """Wait until no other process changes the list or the table of the sweep in ``out``.

    Raises:
        UserError: one still does after LOCK_SECONDS, ``out`` cannot be written, or something
            that is written there is a link.
    """
    refuse_links(out, (LOCK, SWEEP, RUNS))
    refuse_links(out / RUNS, ["*"])
    lock = filelock.FileLock(out / LOCK, timeout=LOCK_SECONDS)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        raise UserError(
            f"{out / LOCK} has been held for {LOCK_SECONDS} s; expected the process that writes "
            "there to end"
        ) from error
    except NotImplementedError:
        print_once(f"{out} has no locks: two processes at once may lose points of its list")
    except OSError as error:
        raise write_error(out / LOCK, error) from error
    try:
        yield
    finally:
        lock.release()


def write_members(out: Path, members: Sequence[Member]) -> None:
    """Write what the sweep consists of to ``out``/sweep.json; hold :func:`sweep_lock`."""
    write_json(out / SWEEP, {"points": [asdict(member) for member in members]})


def add_members(out: Path, members: Sequence[Member]) -> None:
    """Add runs to those of the sweep in ``out``, which other processes may be adding to as well.

    Raises:
        UserError: what is there is damaged, or cannot be written.
    """
    with sweep_lock(out):
        earlier = read_members(out) if (out / SWEEP).exists() else []
        by_id = {member.id: member for member in (*earlier, *members)}
        write_members(out, with_names(list(by_id.values())))


def read_members(out: Path) -> list[Member]:
    """The runs of the sweep in ``out``, wherever the directory was when they were trained.

    Raises:
        UserError: it is no directory of a sweep.
    """
    file = out / SWEEP
    if not file.is_file():
        raise UserError(f"{out} holds no {SWEEP}; expected the directory of a sweep")
    points = read_json_object(file, "the runs of a sweep", limit=LARGE).get("points")
    if not isinstance(points, list):
        raise UserError(f"{file} is damaged: it has no list of points; expected that of a sweep")
    return with_names([_stored_member(point, file, out) for point in points])


def _stored_member(point: Any, file: Path, out: Path) -> Member:
    """The run that an entry of sweep.json describes; UserError for anything else."""
    if not isinstance(point, dict) or set(point) != {"id", "name", "config"}:
        raise UserError(
            f"{file} is damaged: a point is {reprlib.repr(point)}; expected its id, name and config"
        )
    key, name = point["id"], point["name"]
    # The id names the folder of the run.
    if not (isinstance(key, str) and re.fullmatch(ID_PATTERN, key) and isinstance(name, str)):
        raise UserError(
            f"{file} is damaged: a point has id {reprlib.repr(key)} and name {reprlib.repr(name)}; "
            f"expected {ID_DIGITS} hexadecimal digits and a text"
        )
    return _member(key, name, from_dict(point["config"], str(file)), out)


def _member(key: str, name: str, config: Config, out: Path | str) -> Member:
    """A run of the sweep in ``out``; ValueError for an id that is none, since it names a folder."""
    if not (isinstance(key, str) and len(key) == ID_DIGITS and set(key) <= set("0123456789abcdef")):
        raise ValueError(f"id {key!r:.40}")
    return Member(key, name, replace(config, run=replace(config.run, out=f"{out}/{RUNS}/{key}")))


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else shown(str(value))


@dataclass(frozen=True)
class Sweep:
    """A grid of runs."""

    base: Config
    """What all points have in common."""
    points: Grid
    """What each sets instead; see :mod:`vasae_jax.sweep.grid`."""
    out: str
    """Directory of the sweep: every run under ``runs/ID``, and the table of all."""


def load_sweep(path: str) -> Sweep:
    """The ``sweep`` that a Python file defines.

    Raises:
        UserError: no such file, it fails to run, or it defines no ``sweep = Sweep(...)``.
    """
    sweep = read_variable(path, "sweep", "sweep = Sweep(...)")
    if not isinstance(sweep, Sweep):
        raise UserError(
            f"sweep {path} has sweep = {type(sweep).__name__}; expected a vasae_jax.sweep.Sweep"
        )
    return sweep
