"""``vasae VERB``: finds the verb, runs it, and turns errors into one sentence and a code."""

import importlib
import sys
from collections.abc import Callable, Sequence

from vasae_jax.distributed.compilation import keep_programs
from vasae_jax.distributed.hosts import pass_over_absent_tpu
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.memory import keep_pages
from vasae_jax.utils.signals import quiet_libraries

VERBS = {
    "quickstart": "from a real model to a named dictionary in one command",
    "train": "train an SAE from a config and an activation cache, or resume it",
    "sweep": "train a grid of runs from one file, and show its table",
    "eval": "measure a run on held-out documents",
    "name": "print the names of a run's features, and write them to a file",
    "report": "write a page about a run's features, or several runs', for a browser",
    "heatmap": "draw which names are most active along a sentence",
    "export": "write a run's named dictionary for NumPy and other libraries",
    "import": "take in an SAE that another library trained, to name and measure it",
    "cache": "show, verify, import or export an activation cache",
    "anchors": "read off a cache where its layers put each token",
}

MODULES = {"import": "import_sae"}
"""Verbs whose module cannot bear their name."""

USAGE = """usage: vasae VERB [ARGUMENTS]

Train sparse autoencoders whose features come with names.

{verbs}

Run vasae VERB --help for the arguments of a verb. tools/extract_flax.py and
tools/extract_torch.py make activation caches; vasae quickstart makes its own.
A layer name is the token at which, or just before which, a feature should fire, with what it holds
on held-out text. It is not an explanation of the feature, not a causal claim, and not one-to-one.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code.

    0: done. 2: something given cannot be used (one sentence on stderr). 130 and 143:
    stopped by SIGINT and SIGTERM, progress kept.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0 if arguments else 2
    verb = arguments[0]
    if verb == "--version":
        from vasae_jax import __version__

        print(f"vasae-jax {__version__}")
        return 0
    if verb not in VERBS:
        return _fail(f"unknown verb {verb!r}; expected one of {', '.join(VERBS)}")
    keep_pages()
    pass_over_absent_tpu()
    keep_programs()
    quiet_libraries()
    module = f"vasae_jax.cli.{MODULES.get(verb, verb)}"
    return guarded(lambda: importlib.import_module(module).run(arguments[1:]))


def guarded(run: Callable[[], None]) -> int:
    """Run a command; what a user can mend becomes one sentence and its exit code."""
    from vasae_jax.utils.signals import Stopped

    try:
        run()
    except UserError as error:
        return _fail(str(error))
    except Stopped as stopped:
        print(f"vasae: {stopped}", file=sys.stderr)
        return stopped.exit_code
    except KeyboardInterrupt:
        print("vasae: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader, such as head, has enough
        return 0
    return 0


def _usage() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {summary}" for verb, summary in VERBS.items())
    return USAGE.format(verbs=verbs)


def _fail(sentence: str) -> int:
    print(f"vasae: {sentence}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
