"""The arguments of an extraction: of ``vasae extract`` and of both extraction tools."""

import argparse
import dataclasses
from collections.abc import Callable, Sequence

from vasae_jax.cache import Part
from vasae_jax.dictionary.card import FEW_DOCUMENTS
from vasae_jax.extract.model import Model, parse_layers
from vasae_jax.extract.pipeline import Settings, extract
from vasae_jax.extract.special_tokens import MODES
from vasae_jax.extract.text import read_documents
from vasae_jax.utils.ending import command_words, exit_code
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.streams import protect_streams

BOS = {"auto": None, "yes": True, "no": False}


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults other than None and False."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def make_parser(description: str, prog: str | None = None) -> argparse.ArgumentParser:
    """A parser with every argument that does not depend on the backend."""
    parser = argparse.ArgumentParser(prog=prog, description=description, formatter_class=_Formatter)
    add = parser.add_argument
    add("--model", required=True, help="directory, .gguf file or Hugging Face name")
    add(
        "--text",
        required=True,
        help=".txt, .md, .jsonl or .parquet file, a directory of these, english (which "
        "ships with vasae), pydoc-topics (CPython's own help texts), or hf:NAME, hf:USER/NAME, "
        "hf:USER/NAME/CONFIG",
    )
    add("--out", required=True, help="the cache: a directory or a gs:// or s3:// URL")
    add("--layers", required=True, help="0-based layers such as 3,9, or all")
    add("--sites", default="resid_post", help="places in each layer, divided by commas")
    add("--context-length", type=int, default=128, help="tokens in a window, BOS included")
    add("--batch-windows", type=int, default=32, help="most windows in one forward pass")
    add("--max-rows", type=int, help="stop before more rows (tokens) than this (default: all)")
    add("--heldout-share", type=float, default=0.1, help="share of documents held out")
    types = ("bfloat16", "float32")
    add("--dtype", choices=types, default="bfloat16", help="type of the stored rows")
    add("--compute-dtype", choices=types, default="float32", help="type of weights and products")
    add(
        "--bos",
        choices=tuple(BOS),
        default="auto",
        help="put a BOS token before every window; auto: where the model's tokenizer does",
    )
    add(
        "--special-tokens",
        choices=MODES,
        default="text",
        help="special tokens that the text spells, such as <|endoftext|>: plain text, parsed as "
        "tokens, or documents split at each",
    )
    add("--text-field", default="text", help="field or column with the text, messages or token ids")
    add("--text-split", default="train", help="split of a hf: dataset")
    add("--chunk-rows", type=int, default=2048, help="rows read and checked as one")
    add("--shard-rows", type=int, help="rows in one file (default: 512 MB of all layers)")
    add(
        "--shard",
        metavar="I/N",
        help="write only part I, from 0, of N; vasae cache finish OUT joins the parts",
    )
    add("--overwrite", action="store_true", help="replace the cache at --out")
    return parser


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The settings in the arguments; raises UserError."""
    values = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(Settings)}
    values["layers"] = parse_layers(arguments.layers)
    values["sites"] = tuple(arguments.sites.split(","))
    values["bos"] = BOS[arguments.bos]
    return Settings(**values)


def parse_part(text: str | None, *, overwrite: bool) -> Part | None:
    """The part that ``text``, ``"i/n"``, names; raises UserError."""
    if text is None:
        return None
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise UserError(f"--shard is {text!r}; expected I/N with I from 0 to N-1, as in 0/16")
    if overwrite:
        raise UserError("--overwrite is set with --shard; expected a new place for the parts")
    return Part(int(index), int(count))


def store(arguments: argparse.Namespace, build: Callable[[argparse.Namespace], Model]) -> None:
    """Build the model, extract, and print a summary.

    Raises:
        UserError: an argument or a file cannot be used.
        Stopped: by a signal.
    """
    settings = settings_of(arguments)
    documents = read_documents(arguments.text, arguments.text_field, arguments.text_split)
    manifest = extract(
        build(arguments),
        documents,
        arguments.out,
        settings,
        source=arguments.text,
        overwrite=arguments.overwrite,
        part=parse_part(arguments.shard, overwrite=arguments.overwrite),
    )
    if manifest is None:
        print(f"{arguments.out}: part {arguments.shard} is complete; vasae cache finish joins all")
        return
    counts = ", ".join(
        f"{split} {info.rows:,} rows of {info.documents:,} documents"
        for split, info in manifest.splits.items()
    )
    print(f"{arguments.out}: {', '.join(map(str, manifest.sites))}; {counts}")
    if manifest.splits["heldout"].documents < FEW_DOCUMENTS:
        print(_few_documents(manifest.splits["heldout"].documents, arguments))


def _few_documents(count: int, arguments: argparse.Namespace) -> str:
    """What to do about few held-out documents."""
    rest = "; --max-rows reads texts in their order" if arguments.max_rows else ""
    return (
        f"only {count} held-out documents: names are tested on these alone; give more documents, "
        f"or a larger --heldout-share{rest}"
    )


def run(arguments: argparse.Namespace, build: Callable[[argparse.Namespace], Model]) -> int:
    """:func:`store`, as a program of its own.

    Returns:
        The exit code, as :func:`vasae_jax.utils.ending.exit_code` has it.
    """
    return exit_code(
        lambda: store(arguments, build),
        "extract",
        interrupted="stopped before any new row; rows stored earlier stay",
    )


def main(
    description: str,
    options: Callable[[argparse.ArgumentParser], None],
    build: Callable[[argparse.Namespace], Model],
    argv: Sequence[str] | None = None,
) -> int:
    """Parse ``argv`` with the shared options and the backend's, and run."""
    protect_streams()
    parser = make_parser(description)
    options(parser)
    return run(parser.parse_args(command_words(argv)), build)
