"""Read a run's settings from a Python file, from command-line arguments and from config.json."""

import contextlib
import dataclasses
import difflib
import io
import re
import reprlib
import runpy
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args, get_type_hints

from vasae_jax.config.settings import Config
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.typed import in_words, misfits

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
    "run.fall_back": "run.skip_damaged",
}
"""Settings of earlier versions, and their names now."""
RENAMED_VALUES = {
    "anchor.kind": {"here": "at", "next": "before"},
    "anchor.feature_weight": {"root_rate": "sqrt_rate"},
}
"""Choices of earlier versions, and their names now."""

TRAINING_ONLY = frozenset(
    ["optim", "mesh", "data.readers", "data.shuffle_chunks"]
    + [f"sae.{name}" for name in ("encoder_init", "decoder_init", "b_dec_init")]
    + ["sae.b_enc_init", "anchor.init_fraction"]
    + ["sae.normalize_decoder", "anchor.start", "anchor.warmup", "anchor.relative", "anchor.mode"]
    + ["anchor.feature_weight", "anchor.target_cosine", "anchor.search_fraction"]
    + [f"run.{name}" for name in ("log_every", "checkpoint_every", "keep", "keep_every")]
    + [f"run.{name}" for name in ("tensorboard", "wandb", "overwrite", "skip_damaged")]
)
"""Sections, and settings of others, that nothing goes by that reads a trained run. A run of an
earlier version may lack them and can still be read; one that lacks any other is refused."""

_SECTIONS = get_type_hints(Config)


def load_config(path: str) -> Config:
    """The ``config`` that a Python file defines.

    Raises:
        UserError: there is no such file, it fails, or it does not define one Config.
    """
    config = load_config_or_pack(path)
    if not isinstance(config, Config):
        raise UserError(f"config {path} has a pack of {len(config)} runs; expected one Config")
    return config


def load_config_or_pack(path: str) -> Config | list[Config]:
    """The ``config`` that a Python file defines: one Config, or a list of them (a pack).

    Raises:
        UserError: there is no such file, it fails, or ``config`` is something else.
    """
    value = read_variable(path, "config", "config = Config(...)")
    values = value if isinstance(value, list | tuple) else [value]
    configs = [each for each in values if isinstance(each, Config)]
    if not configs or len(configs) < len(values):
        raise UserError(
            f"config {path} has config = {type(value).__name__}; expected a "
            "vasae_jax.config.settings.Config, or a list of them to train together"
        )
    for config in configs:
        check_types(config, f"config {path}")
    return value if isinstance(value, Config) else configs


def read_variable(path: str, name: str, expected: str) -> object:
    """Run a Python file and return its global variable ``name``, or None if it has none.

    Raises:
        UserError: the file does not exist (the message says ``expected``) or it fails.
    """
    if not Path(path).is_file():
        raise UserError(f"{name} {path} is not there; expected a Python file with {expected}")
    try:
        return runpy.run_path(path).get(name)
    except UserError as error:
        raise UserError(f"{name} {path}: {error}") from error
    except Exception as error:
        raise UserError(
            f"{name} {path} fails: {type(error).__name__}: {error}{_renamed_argument(error)}"
        ) from error


def parse_overrides(default: Config, arguments: Sequence[str], program: str) -> Config:
    """Apply arguments of the form ``--section.field=value`` to the settings ``default``.

    Raises:
        UserError: a setting is unknown (the message names similar ones), or a value is wrong.
    """
    import tyro  # takes a third of a second to load

    _refuse_renamed_values(arguments)
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            config, unknown = tyro.cli(
                Config,
                default=default,
                args=[_to_flag(argument) for argument in arguments],
                prog=program,
                return_unknown_args=True,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_unbox(stderr.getvalue())) from None
    if unknown:
        raise UserError(_unknown_setting(unknown[0]))
    check_types(config, "the command line")
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """The settings as plain JSON values."""
    return dataclasses.asdict(config)


def from_dict(value: Any, origin: str) -> Config:
    """The inverse of :func:`to_dict`.

    A setting of TRAINING_ONLY that ``value`` lacks is None: unknown, not this version's default.
    One for which None is a choice has to be there.

    Args:
        value: sections of settings.
        origin: the file that they are from, for messages.

    Raises:
        UserError: a section, setting or value that this version does not have, or a setting that
            is missing and cannot be unknown.
    """
    if not isinstance(value, dict):
        raise UserError(f"{origin} holds a {type(value).__name__}; expected sections of settings")
    for section, fields in value.items():
        if section not in _SECTIONS:
            raise UserError(
                f"{origin} has a section {section!r:.60}; expected {', '.join(_SECTIONS)}"
            )
        for name in fields if isinstance(fields, dict) else ():
            if new := RENAMED.get(f"{section}.{name}"):
                raise UserError(
                    f"{origin} has {section}.{name}, which is now called {new}; expected a file of "
                    "this version"
                )
    try:
        given = {name: dict(value.get(name, {})) for name in _SECTIONS}
        missing = [name for name in flatten(Config()) if _lacks(given, name)]
        config = Config(
            **{
                section: kind(**dict.fromkeys(_names(section, missing)) | given[section])
                for section, kind in _SECTIONS.items()
            }
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{origin} is not a config of this version: {error}") from error
    needed = [name for name in missing if not _may_be_unknown(name)]
    if needed:
        raise UserError(
            f"{origin} lacks {', '.join(needed)}, so what it was trained with is not known; "
            "expected all settings that say what a run is"
        )
    check_types(config, origin, unknown=missing)
    return config


def missing_settings(config: Config) -> list[str]:
    """The settings that are unknown since the file that ``config`` was read from lacks them."""
    return [name for name, value in flatten(config).items() if value is None and _is_set(name)]


def _lacks(given: dict[str, dict[str, Any]], name: str) -> bool:
    section, field = name.split(".")
    return field not in given[section] or (given[section][field] is None and _is_set(name))


def _may_be_unknown(name: str) -> bool:
    """Whether None can stand for an unknown value: of training alone, and None is no choice."""
    return bool({name, name.split(".")[0]} & TRAINING_ONLY) and _is_set(name)


def _names(section: str, settings: Sequence[str]) -> list[str]:
    """The names within ``section`` of those of ``settings`` that are in it."""
    return [name.split(".")[1] for name in settings if name.split(".")[0] == section]


def _is_set(name: str) -> bool:
    """Whether a setting always has a value: None is none."""
    section, field = name.split(".")
    return type(None) not in get_args(get_type_hints(_SECTIONS[section])[field])


def difference(old: Config, new: Config) -> str | None:
    """The first setting in which two configs differ, in words; None if they are equal."""
    before = flatten(old)
    for name, value in flatten(new).items():
        if before[name] != value:
            return f"{name} was {before[name]!r} and is now {value!r}"
    return None


def flatten(config: Config) -> dict[str, Any]:
    """Every setting under its dotted name, such as ``sae.k``."""
    return {
        f"{section}.{name}": value
        for section, fields in to_dict(config).items()
        for name, value in fields.items()
    }


def check_types(config: Config, origin: str, unknown: Sequence[str] = ()) -> None:
    """Raise UserError for a value that is not of its setting's type, but for ``unknown``."""
    for name, value, hint in misfits(config):
        if name not in unknown:
            new = RENAMED_VALUES.get(name, {}).get(str(value))
            renamed = f", which is now called {new}" if new else ""
            raise UserError(
                f"{origin} has {name}={reprlib.repr(value)}{renamed}; expected {in_words(hint)}"
            )


def _refuse_renamed_values(arguments: Sequence[str]) -> None:
    """Raise UserError for a value of an earlier version."""
    words = [word for argument in arguments for word in argument.split("=", 1)]
    for option, value in pairwise(words):
        name = _to_name(option)
        new = RENAMED_VALUES.get(name, {}).get(value)
        if new:
            raise UserError(f"{option}={value} is now called {option}={new}")


def _renamed_argument(error: Exception) -> str:
    """What to add to the error of a Python file that sets a renamed setting; empty otherwise."""
    match = re.search(r"(\w+)Config\..* unexpected keyword argument '(\w+)'", str(error))
    new = match and RENAMED.get(f"{match[1].lower()}.{match[2]}")
    return f" ({match[2]} is now called {new})" if match and new else ""


def _to_name(option: str) -> str:
    """``--sae.d-sae=3`` as the name of a setting, ``sae.d_sae``."""
    return option.lstrip("-").split("=")[0].replace("-", "_")


def _to_option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _to_flag(argument: str) -> str:
    """``--a.b=true`` and ``--a.b=false`` as tyro expects them: ``--a.b`` and ``--a.no-b``."""
    match = re.fullmatch(r"--(\w+)\.([\w-]+)=(true|false)", argument, re.IGNORECASE)
    if match is None or not isinstance(flatten(Config()).get(_to_name(argument)), bool):
        return argument
    section, name, value = match.groups()
    return f"--{section}.{name}" if value.lower() == "true" else f"--{section}.no-{name}"


def _unknown_setting(argument: str) -> str:
    option, name = argument.split("=")[0], _to_name(argument)
    if new := RENAMED.get(name):
        return f"{option} is now called {_to_option(new)}"
    if similar := similar_settings(name):
        return f"unknown setting {option}; did you mean {' or '.join(map(_to_option, similar))}?"
    return f"unknown setting {option}; see vasae train --help for all settings"


def similar_settings(name: str) -> list[str]:
    """The settings that an unknown dotted ``name`` may stand for, the likeliest first."""
    if name in RENAMED:
        return [RENAMED[name]]
    names = list(flatten(Config()))
    close = difflib.get_close_matches(name, names, n=2, cutoff=0.5)
    return close or [each for each in names if each.split(".")[1] == name.split(".")[-1]]


def _unbox(text: str) -> str:
    """The first paragraph of a message that tyro has drawn in a box, as one line."""
    paragraph: list[str] = []
    for line in re.sub(r"[╭╮╰╯│]", "", text).splitlines()[1:]:
        if line.strip().startswith("──"):
            break
        paragraph.append(line.strip())
    return " ".join(paragraph).strip() or "a setting is wrong; see vasae train --help"
