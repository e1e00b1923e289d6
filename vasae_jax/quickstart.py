"""From a language model to a named dictionary in one call: all stages in order."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from vasae_jax.cache import Cache
from vasae_jax.config import Config
from vasae_jax.config.presets import quickstart as preset
from vasae_jax.dictionary.files import check_outputs, write_dictionary
from vasae_jax.evaluation.publish import publish
from vasae_jax.extract import Settings, extract, read_documents
from vasae_jax.lm import LM, load_lm
from vasae_jax.lm.lm import faster_dtype
from vasae_jax.lm.smollm2 import fetch_smollm2
from vasae_jax.report.figures.alignment import alignment_figure
from vasae_jax.report.labels import label_runs
from vasae_jax.report.make import ReportOptions, make_report
from vasae_jax.report.page.build import check_folder
from vasae_jax.report.summary import summary
from vasae_jax.training.log import print_once
from vasae_jax.training.loop import train
from vasae_jax.training.run import open_trained
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import refuse_existing
from vasae_jax.utils.progress import duration
from vasae_jax.utils.replace import refuse_links

HELDOUT_SHARE = 0.125
"""Share of the documents to hold out: of a short text more than a tenth, for rows to test names."""
TEXT = "english"
"""The text that ships with the package; see extract/english.md."""
CONTEXT = 128
"""Tokens in a context window, if the model can take as many."""
CHUNK_ROWS = 512
"""Rows in a chunk; few, so that a short text has a chunk for each reader."""


@dataclass(frozen=True)
class Quickstart:
    """The arguments of a quickstart."""

    out: str
    """Directory for all output."""
    model: str | None
    """Model directory, .gguf file or hub name; None: SmolLM2-135M, at a fixed revision."""
    text: str
    """Documents: a file, a directory, hf:NAME, english or pydoc-topics."""
    layers: tuple[int, ...] | None
    """Layers to extract; None: :func:`default_layers`."""
    layer: int | None
    """Layer to train on; None: the middle one of ``layers``."""
    max_rows: int
    """Most tokens of text to use."""
    overwrite: bool
    """Replace the output of an earlier quickstart."""


def run_quickstart(args: Quickstart, override: Callable[[Config], Config]) -> None:
    """Extract, train, evaluate, name, export, and write a figure and a report; print a summary.

    An interrupted quickstart continues when it is run again.

    Args:
        args: what to run on.
        override: applies the user's settings to the settings of the run.

    Raises:
        UserError: an argument cannot be used, or output exists already.
        Stopped: a signal stopped it; progress is saved.
    """
    out = Path(args.out)
    refuse_links(out, ("cache", "run", "report"))
    npz, figure = out / "dictionary.npz", out / "alignment.png"
    report = ReportOptions(str(out / "report"), overwrite=args.overwrite)
    check_outputs(npz, args.overwrite)
    check_folder(report.out, report.overwrite)
    refuse_existing(figure, overwrite=args.overwrite)
    seconds: dict[str, float] = {}

    with _timed(seconds, "model"):
        model = _load_model(args)
    layers = args.layers or default_layers(model.spec.n_layers)
    layer = layers[len(layers) // 2] if args.layer is None else args.layer
    if layer not in layers:
        raise UserError(
            f"layer {layer} is to be trained on but layers {', '.join(map(str, layers))} are "
            "extracted; expected one of them"
        )
    with _timed(seconds, "extraction"):
        _extract(args, model, layers, str(out / "cache"))
    del model  # frees its memory for training
    config = override(preset(str(out / "cache"), layer, str(out / "run")))
    if args.overwrite:
        config = replace(config, run=replace(config.run, overwrite=True))
    with _timed(seconds, "training"):
        train(config)
    run = open_trained(config.run.out)
    with _timed(seconds, "evaluation and naming"):
        dictionary, evaluation, watch = publish(run)
    with _timed(seconds, "files"):
        write_dictionary(npz, dictionary, args.overwrite)
        alignment_figure(dictionary, figure, args.overwrite)
    with _timed(seconds, "report"):
        published = (dictionary, evaluation, watch)
        runs = label_runs([(config.run.out, run)])
        index = make_report(report, runs, _load_model(args), [published])
    print(summary(run, dictionary, evaluation, watch))
    print(f"{out}: dictionary.npz, names.jsonl, meta.json, alignment.png")
    print(f"open {index} in a browser")
    print(", ".join(f"{stage} {duration(taken)}" for stage, taken in seconds.items()))


def default_layers(count: int) -> tuple[int, ...]:
    """Layers at a third, a half and two thirds of the way up ``count`` blocks."""
    return tuple(sorted({count // 3, count // 2, 2 * count // 3}))


def _load_model(args: Quickstart) -> LM:
    return load_lm(args.model or fetch_smollm2(), faster_dtype())


def _extract(args: Quickstart, model: LM, layers: tuple[int, ...], url: str) -> None:
    """Make or finish the cache, or check that the finished one is as requested."""
    if not args.overwrite and (Path(url) / "manifest.json").exists():
        _check_cache(Cache.open(url), args, model, layers)
        print_once(f"{url} is complete")
        return
    settings = Settings(
        layers=layers,
        max_rows=args.max_rows,
        context_length=min(CONTEXT, model.spec.context_length),
        heldout_share=HELDOUT_SHARE,
        chunk_rows=CHUNK_ROWS,
    )
    documents = read_documents(args.text)
    print_once(
        f"extracting layers {', '.join(map(str, layers))} of {model.id} over {args.text} "
        f"({model.computed})"
    )
    extract(model, documents, url, settings, source=args.text, overwrite=args.overwrite)


def _check_cache(cache: Cache, args: Quickstart, model: LM, layers: tuple[int, ...]) -> None:
    """Raise UserError unless the cache is of this model, these layers and this text."""
    manifest = cache.manifest
    for name, old, new in (
        ("model", manifest.model.source_digest, model.source_digest),
        ("layers", tuple(site.layer for site in manifest.sites), layers),
        ("text", manifest.text.source, args.text),
    ):
        if old != new:
            raise UserError(
                f"{cache.url} holds a cache with {name} {old}; expected {new}, another --out, "
                "or --overwrite"
            )


@contextlib.contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    seconds[stage] = time.monotonic() - began
