"""Programs as the docs call them: run, or only as far as their own parsers go."""

import argparse
import runpy
import sys

import pytest
from doc_pages import ROOT

from vasae_jax.cli.main import main
from vasae_jax.config import Config
from vasae_jax.config.overrides import flatten, parse_overrides
from vasae_jax.utils.ending import TRACEBACK

CONFIGURED = ("vasae train", "vasae sweep", "vasae quickstart", "tools/aot.py")
"""What takes the settings of a run besides its own options."""


def start(words: list[str]) -> int:
    """Run a command line of ``vasae``, or of a file in tools/, in this process; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words)
        try:
            if words[0] == "vasae":
                return main(words[1:])
            patch.syspath_prepend((ROOT / words[0]).parent)
            runpy.run_path(str(ROOT / words[0]), run_name="__main__")
        except SystemExit as stop:
            return int(stop.code or 0)
    return 0


def check_arguments(words: list[str]) -> None:
    """Fail unless each argument and setting of a command line is there, and its value fits."""
    _, rest = _parse(words)
    assert rest is not None, f"{words} are refused"
    if words[:2] == ["vasae", "train"] and rest:
        rest = rest[1:]  # the config file
    parse_overrides(Config(), rest, "docs")


def options(words: list[str]) -> set[str]:
    """The options of a program or of a verb, such as ``["vasae", "eval"]``."""
    parser, _ = _parse(words)
    found = {*parser._option_string_actions, TRACEBACK}
    return found | settings() if " ".join(words).startswith(CONFIGURED) else found


def settings() -> set[str]:
    """The settings of a run as options, such as ``--sae.d-sae``."""
    return {f"--{name.replace('_', '-')}" for name in flatten(Config())}


def _parse(words: list[str]) -> tuple[argparse.ArgumentParser, list[str] | None]:
    """The parser, of a verb's part where there is one, and what it leaves; None: refused."""
    own, reached = argparse.ArgumentParser.parse_known_args, []

    def stop(self, args=None, namespace=None):
        """Parse, note what is left, and end the program: it goes no further."""
        reached.append([self, None])
        reached[-1][1] = own(self, args, namespace)[1]
        raise SystemExit

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
        start(words)
    parser, rest = reached[-1]
    return parser, rest
