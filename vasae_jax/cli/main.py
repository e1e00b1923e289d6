"""``vasae VERB``: run a verb, and turn errors into one sentence and an exit code."""

import importlib
import sys
from collections.abc import Sequence

from vasae_jax.distributed.environment import cache_compiled_programs, reuse_memory, skip_absent_tpu
from vasae_jax.utils.ending import command_words, exit_code
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.signals import quiet_libraries
from vasae_jax.utils.streams import protect_streams

VERBS = {
    "quickstart": "go from a language model to a named dictionary in one command",
    "extract": "run text through a language model into an activation cache",
    "train": "train an SAE from a config and an activation cache, or resume it",
    "sweep": "train a grid of runs, and show its table and figures",
    "eval": "measure a run on held-out documents",
    "name": "print the names of features, and write them to a file",
    "report": "write a page about the features of runs, for a browser",
    "heatmap": "draw the most active names along a sentence",
    "export": "write a named dictionary for NumPy or another library",
    "import": "read an SAE of another library, to name and measure it",
    "cache": "show, verify, finish, import or export an activation cache",
    "anchors": "compute the layer anchors of a cache",
}

MODULES = {"import": "import_sae"}
"""Verbs whose names cannot be names of modules."""

USAGE = """usage: vasae VERB [ARGUMENTS]

Train sparse autoencoders whose features come with names.

{verbs}

Run vasae VERB --help for the arguments of a verb; with --traceback each also prints the Python
traceback of an error.
A feature's name is the token at which, or just before which, it should fire, with evidence from
held-out text. It is not an explanation of the feature, not a causal claim, and not one-to-one.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code.

    0: done. 2: an argument, setting or file cannot be used (one sentence on stderr). 1: an error
    that was not foreseen (one sentence, and a log file). 130 and 143: stopped by SIGINT and
    SIGTERM; progress is saved.
    """
    arguments = command_words(argv)
    protect_streams()
    code = exit_code(lambda: _run(arguments))
    return code if arguments else 2


def _run(arguments: Sequence[str]) -> None:
    """Run the verb that the first argument names, with the others."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return
    verb = arguments[0]
    if verb == "--version":
        from vasae_jax import __version__

        print(f"vasae-jax {__version__}")
        return
    if verb not in VERBS:
        raise UserError(f"unknown verb {verb!r}; expected one of {', '.join(VERBS)}")
    reuse_memory()
    skip_absent_tpu()
    cache_compiled_programs()
    quiet_libraries()
    importlib.import_module(f"vasae_jax.cli.{MODULES.get(verb, verb)}").run(arguments[1:])


def _usage() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {summary}" for verb, summary in VERBS.items())
    return USAGE.format(verbs=verbs)


if __name__ == "__main__":
    sys.exit(main())
