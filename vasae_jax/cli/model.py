"""``--lm`` and ``--backend`` for the verbs that run a language model."""

import argparse

MODEL_HELP = (
    "the caches' language model (directory, .gguf file or Hugging Face name), to run sentences with"
)


def add_model(parser: argparse.ArgumentParser, text: str, *, required: bool = False) -> None:
    """Add the two arguments; ``text`` helps with the first."""
    parser.add_argument("--lm", metavar="MODEL", required=required, help=text)
    parser.add_argument(
        "--backend",
        choices=("auto", "flax", "torch"),
        default="auto",
        help="library that runs the model; auto: Flax, or PyTorch if the Flax code lacks the model",
    )
