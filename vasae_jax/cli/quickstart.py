"""Go from a language model to a named dictionary.

Download a small language model (or use yours), extract a few layers over English text, train an SAE
with names, measure it on held-out documents, and write dictionary.npz, names.jsonl, meta.json,
alignment.png and report/, a page to open in a browser. After an interruption, run the same command
to continue.
"""

from collections.abc import Sequence

from vasae_jax.cli.options import VerbParser, require_matplotlib
from vasae_jax.config import Config
from vasae_jax.config.overrides import parse_overrides

PROGRAM = "vasae quickstart"


def run(arguments: Sequence[str]) -> None:
    """Run all stages."""
    args, settings = _parser().parse_known_args(arguments)
    parse_overrides(Config(), settings, PROGRAM)  # finds mistakes before a stage starts
    require_matplotlib()

    from vasae_jax.quickstart import Quickstart, run_quickstart

    quickstart = Quickstart(**vars(args))
    run_quickstart(quickstart, lambda config: parse_overrides(config, settings, PROGRAM))


def _parser() -> VerbParser:
    parser = VerbParser(
        prog=PROGRAM,
        description=__doc__,
        epilog="Settings of vasae train, such as --sae.k=64, may follow.",
    )
    add = parser.add_argument
    add("--out", default="out/quickstart", help="directory for all output")
    add("--model", help="model directory, .gguf file or hub name (default: SmolLM2-135M, 93 MB)")
    add(
        "--text",
        default="english",
        help=".txt, .jsonl or .parquet file, directory of these, hf:NAME, or one that needs no "
        "download: english (novels, countries, speeches) or pydoc-topics (Python's reference)",
    )
    add("--layers", type=layer_numbers, help="layers to extract, such as 5,10 (default: three)")
    add("--layer", type=int, help="layer to train on (default: the middle one of --layers)")
    add("--max-rows", type=int, default=200_000, help="most tokens to use")
    add("--overwrite", action="store_true", help="replace the output of an earlier run in --out")
    return parser


def layer_numbers(text: str) -> tuple[int, ...]:
    """Parse layers such as 5,10; argparse shows this function's name if it fails."""
    return tuple(int(part) for part in text.split(","))
