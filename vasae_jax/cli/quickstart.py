"""``vasae quickstart``."""

import argparse
from collections.abc import Sequence

from vasae_jax.cli.options import need_matplotlib
from vasae_jax.config.overrides import parse_overrides

PROGRAM = "vasae quickstart"


def run(arguments: Sequence[str]) -> None:
    """Parse, then run every stage."""
    given, settings = _parser().parse_known_args(arguments)
    # Settings are read before any stage starts, so that a typo costs nothing.
    from vasae_jax.config import Config

    parse_overrides(Config(), settings, PROGRAM)

    need_matplotlib()
    from vasae_jax.quickstart import Quickstart, run_quickstart

    wanted = Quickstart(
        out=given.out,
        model=given.model,
        text=given.text,
        layers=given.layers,
        layer=given.layer,
        max_rows=given.max_rows,
        overwrite=given.overwrite,
    )
    run_quickstart(wanted, lambda config: parse_overrides(config, settings, PROGRAM))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Fetch a small real model (or use yours), extract a few layers over English "
        "text, train a soft SAE, measure it on held-out documents, and write dictionary.npz, "
        "names.jsonl, meta.json, alignment.png and report/, a page to open in a browser. After an "
        "interruption, run the same command to continue.",
        epilog="Settings of vasae train, such as --sae.k=64, may follow.",
    )
    add = parser.add_argument
    add("--out", default="out/quickstart", help="directory for all output (default: %(default)s)")
    add("--model", help="model directory, .gguf file or hub name (default: SmolLM2-135M, 93 MB)")
    add(
        "--text",
        default="pydoc-topics",
        help=".txt, .jsonl or .parquet file, a directory of these, hf:NAME, or pydoc-topics "
        "(needs no download; default: %(default)s)",
    )
    add("--layers", type=layer_numbers, help="layers to extract, such as 5,10 (default: three)")
    add("--layer", type=int, help="layer to train on (default: the middle one of --layers)")
    add("--max-rows", type=int, default=200_000, help="most tokens to use (default: %(default)s)")
    add("--overwrite", action="store_true", help="replace the output of an earlier run in --out")
    return parser


def layer_numbers(text: str) -> tuple[int, ...]:
    """Layers as in 5,10; argparse names this function when the text is none."""
    return tuple(int(part) for part in text.split(","))
