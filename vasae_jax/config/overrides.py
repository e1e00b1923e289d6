"""Reading a config from ``configs/*.py``, from the command line and from a finished run."""

import contextlib
import dataclasses
import difflib
import io
import re
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vasae_jax.config.settings import Config
from vasae_jax.utils.errors import UserError

RENAMED = {
    "data.lanes": "data.readers",
    "data.window": "data.shuffle_chunks",
    "sae.bias_init": "sae.b_dec_init",
    "sae.compute": "sae.compute_dtype",
    "sae.unit_norm": "sae.normalize_decoder",
    "anchor.enough": "anchor.target_cosine",
    "anchor.per_feature": "anchor.feature_weight",
    "anchor.ramp": "anchor.warmup",
    "anchor.ramp_from": "anchor.start",
    "anchor.search_share": "anchor.search_fraction",
}
"""Settings of earlier versions, by the name that each has now."""
RENAMED_VALUES = {"anchor.kind": {"here": "at", "next": "before"}}
"""Choices of earlier versions, by the name that each has now."""


def load_file(path: str) -> Config:
    """The one ``config`` that a Python file defines.

    Raises:
        UserError: no such file, it fails to run, or it defines no ``config = Config(...)``.
    """
    found = load_runs(path)
    if not isinstance(found, Config):
        raise UserError(f"config {path} has a pack of {len(found)} runs; expected one Config")
    return found


def variable_of(path: str, name: str, expected: str) -> object:
    """What a Python file sets variable ``name`` to, None if it does not.

    Raises:
        UserError: no such file, where one with ``expected`` was, or it fails to run.
    """
    if not Path(path).is_file():
        raise UserError(f"{name} {path} is not there; expected a Python file with {expected}")
    try:
        return runpy.run_path(path).get(name)
    except UserError as error:
        raise UserError(f"{name} {path}: {error}") from error
    except Exception as error:
        raise UserError(f"{name} {path} fails: {type(error).__name__}: {error}") from error


def load_runs(path: str) -> Config | list[Config]:
    """The ``config`` that a Python file defines, or the list of them: a pack.

    Raises:
        UserError: as :func:`load_file` does.
    """
    found = variable_of(path, "config", "config = Config(...)")
    if isinstance(found, list | tuple) and found and all(isinstance(c, Config) for c in found):
        return list(found)
    if not isinstance(found, Config):
        raise UserError(
            f"config {path} has config = {type(found).__name__}; expected a "
            "vasae_jax.config.settings.Config, or a list of them to train together"
        )
    return found


def parse_overrides(default: Config, arguments: Sequence[str], program: str) -> Config:
    """``default`` with ``--section.field=value`` arguments applied, each by its type.

    Raises:
        UserError: an unknown setting (with the nearest known ones) or a value of a wrong type.
    """
    import tyro  # takes a third of a second that other commands need not spend

    for argument in arguments:
        name, _, value = argument.removeprefix("--").partition("=")
        if new := _renamed_value(name, value):
            raise UserError(f"{argument} is now --{name}={new}")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            config, unknown = tyro.cli(
                Config,
                default=default,
                args=[_as_flag(argument) for argument in arguments],
                prog=program,
                return_unknown_args=True,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_plain(said.getvalue())) from None
    if unknown:
        raise UserError(_unknown(unknown[0]))
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """The config as plain JSON values."""
    return dataclasses.asdict(config)


def from_dict(value: dict[str, Any], origin: str) -> Config:
    """The config that :func:`to_dict` gave.

    Raises:
        UserError: sections or fields that this version does not know; ``origin`` names the file.
    """
    for section, fields in value.items():
        for name in fields if isinstance(fields, dict) else ():
            if new := RENAMED.get(f"{section}.{name}"):
                raise UserError(
                    f"{origin} has {section}.{name}, which is now called {new}; expected a file of "
                    "this version"
                )
            if new := _renamed_value(f"{section}.{name}", fields[name]):
                raise UserError(
                    f"{origin} has {section}.{name} = {fields[name]}, which is now called {new}; "
                    "expected a file of this version"
                )
    try:
        sections = {
            section.name: type(getattr(Config(), section.name))(**value[section.name])
            for section in dataclasses.fields(Config)
        }
    except (KeyError, TypeError) as error:
        raise UserError(f"{origin} is not a config of this version: {error}") from error
    return Config(**sections)


def difference(old: Config, new: Config) -> str | None:
    """The first setting in which two configs differ, in words; None where they are equal."""
    for name, value in flatten(new).items():
        before = flatten(old)[name]
        if before != value:
            return f"{name} was {before!r} and is now {value!r}"
    return None


def flatten(config: Config) -> dict[str, Any]:
    """Every setting by its dotted name, such as ``sae.k``."""
    return {
        f"{section}.{name}": value
        for section, fields in to_dict(config).items()
        for name, value in fields.items()
    }


def _renamed_value(setting: str, value: object) -> str | None:
    """The present name of a choice of an earlier version, None where it had no other."""
    return RENAMED_VALUES.get(setting, {}).get(str(value))


def _as_flag(argument: str) -> str:
    """``--a.b=true`` and ``--a.b=false`` as the parser has them: ``--a.b`` and ``--a.no-b``."""
    found = re.fullmatch(r"--(\w+)\.([\w-]+)=(true|false)", argument, re.IGNORECASE)
    if found is None:
        return argument
    section, name, value = found.groups()
    if not isinstance(flatten(Config()).get(f"{section}.{name.replace('-', '_')}"), bool):
        return argument
    return f"--{section}.{name}" if value.lower() == "true" else f"--{section}.no-{name}"


def _unknown(argument: str) -> str:
    key = argument.lstrip("-").split("=")[0].replace("-", "_")
    if new := RENAMED.get(key):
        return f"{argument.split('=')[0]} is now called --{new.replace('_', '-')}"
    names = list(flatten(Config()))
    near = difflib.get_close_matches(key, names, n=2, cutoff=0.5)
    near = near or [name for name in names if name.split(".")[1] == key.split(".")[-1]]
    hint = " or ".join(f"--{name.replace('_', '-')}" for name in near)
    asked = f"did you mean {hint}?" if hint else "see vasae train --help for all settings"
    return f"unknown setting {argument.split('=')[0]}; {asked}"


def _plain(box: str) -> str:
    """The first paragraph of a message drawn in a box, as one line."""
    text = re.sub(r"[╭╮╰╯│]", "", box)
    body = [line.strip() for line in text.splitlines()]
    kept: list[str] = []
    for line in body[1:]:
        if line.startswith("──"):
            break
        kept.append(line)
    return " ".join(kept).strip() or "the settings could not be read; see vasae train --help"
