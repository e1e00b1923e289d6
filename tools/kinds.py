#!/usr/bin/env python3
"""Names by kind of text: what names chosen on one kind say of the others.

    python tools/kinds.py RUN --text FOLDER

FOLDER holds the .jsonl files that the run's cache was extracted from, one for each kind, such as
tools/texts/mixed.py writes. Names of the run's features are chosen by evidence on the training rows
of all kinds, and of each kind alone, and measured on the held-out rows of each kind.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vasae_jax.cache import Cache
from vasae_jax.cli.options import VerbParser
from vasae_jax.evaluation.evaluate import evaluate_rows
from vasae_jax.evaluation.run import BATCH, NAMES
from vasae_jax.names.by_evidence import names_by_evidence
from vasae_jax.names.by_layer import LayerNames
from vasae_jax.names.counts import FiringCounter
from vasae_jax.names.detection import detection
from vasae_jax.names.evidence import ordered_evidence
from vasae_jax.names.firings import FiringObserver, Firings, RowTokens
from vasae_jax.names.scores import name_scores
from vasae_jax.stream.source import rows_in_order
from vasae_jax.training.run import Run, open_trained
from vasae_jax.utils.ending import command_words, exit_code
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.streams import protect_streams

SPLITS = ("train", "heldout")
EVERY = "all kinds"


def kinds_of(folder: Path, documents: int) -> tuple[list[str], np.ndarray]:
    """The kinds of a text, and the kind [documents] of each of its documents.

    Raises:
        UserError: the files have fewer records than there are documents.
    """
    files = sorted(folder.glob("*.jsonl"))
    counts = [sum(1 for _ in file.open("rb")) for file in files]
    if sum(counts) < documents:
        raise UserError(
            f"{folder} has {sum(counts)} records in {len(files)} .jsonl files; expected the text "
            f"of the cache, of {documents} documents or more"
        )
    return [file.stem for file in files], np.repeat(np.arange(len(files)), counts)


def observe(run: Run, split: str) -> FiringObserver:
    """What fires on the rows of a split, or on a sample of a long one."""
    data, observer = run.config.data, FiringObserver(run.cache, split)
    batches = rows_in_order(run.cache, data.input_site, split, data.mask, batch=BATCH)
    evaluate_rows(run.params, run.config.sae, batches, (), split=split, observe=observer)
    return observer


def of_kind(firings: Firings, tokens: RowTokens, rows: np.ndarray) -> tuple[Firings, RowTokens]:
    """The firings on ``rows`` [rows of the split] alone, and the tokens with these observed."""
    chosen = rows[firings.row]
    return Firings(*(array[chosen] for array in firings)), tokens._replace(
        observed=tokens.observed & rows
    )


def names_of(firings: Firings, tokens: RowTokens, features: int, vocab_size: int) -> LayerNames:
    """Names by evidence from observed rows."""
    observed = np.flatnonzero(tokens.observed)
    place = np.searchsorted(observed, firings.row)
    first = np.searchsorted(place, place)
    column = np.arange(len(place)) - first
    width = int(column.max(initial=0)) + 1
    values = np.zeros((len(observed), width), np.float32)
    ids = np.zeros((len(observed), width), np.int64)
    values[place, column], ids[place, column] = firings.activation, firings.feature
    counter = FiringCounter(features, vocab_size)
    counter.add(values, ids, tokens.token[observed], tokens.next_token[observed])
    return names_by_evidence(counter.counts(), NAMES)


def figures(
    run: Run, names: LayerNames, firings: Firings, tokens: RowTokens
) -> tuple[float, float, float, float]:
    """hold@1, hold@10 and shuffled of firing features, and F1 of all names."""
    layer, evidence = ordered_evidence(firings, names, tokens)
    norms = np.linalg.norm(np.asarray(run.params["W_dec"], np.float64), axis=1)
    scores = name_scores(firings, layer, evidence, norms)[0]
    found = detection(layer, evidence, int(tokens.observed.sum()))
    return scores.hold1, scores.hold10, scores.shuffled10, found.names.f1


def lines(run: Run, folder: Path) -> Iterator[str]:
    """The table, a line at a time."""
    cache: Cache = run.cache
    features, vocab_size = len(run.params["W_dec"]), cache.manifest.vocab_size
    docs = {split: cache.column("docs", split).read(0, cache.rows(split)) for split in SPLITS}
    kinds, kind = kinds_of(folder, 1 + max(int(each.max()) for each in docs.values()))
    observers = {split: observe(run, split) for split in SPLITS}
    seen = {split: (each.firings(), each.row_tokens()) for split, each in observers.items()}
    rows = {
        split: {EVERY: np.ones(len(docs[split]), bool)}
        | {name: kind[docs[split]] == index for index, name in enumerate(kinds)}
        for split in SPLITS
    }
    yield "names from     measured on    rows     hold@1  hold@10  shuffled     F1"
    for source in (EVERY, *kinds):
        part = of_kind(*seen["train"], rows["train"][source])
        names = names_of(*part, features, vocab_size)
        for target in (EVERY, *kinds):
            firings, tokens = of_kind(*seen["heldout"], rows["heldout"][target])
            one, ten, shuffled, f1 = figures(run, names, firings, tokens)
            count = int(tokens.observed.sum())
            yield (
                f"{source:<14} {target:<14} {count:>7,}  {one:>6.1%}  {ten:>6.1%}  {shuffled:>7.2%}"
                f"  {f1:>6.3f}"
            )


def main() -> int:
    """Run the command line; returns the exit code."""
    parser = VerbParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", help="directory of a run of vasae train")
    parser.add_argument("--text", required=True, help="folder of .jsonl files, one for each kind")
    args = parser.parse_args(command_words())
    protect_streams()

    def table() -> None:
        for line in lines(open_trained(args.run, None, None), Path(args.text)):
            print(line, flush=True)

    return exit_code(table, "kinds")


if __name__ == "__main__":
    sys.exit(main())
