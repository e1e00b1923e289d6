"""From a real model to a named dictionary in one command: every room, in order."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from vasae_jax.cache import Cache
from vasae_jax.config import Config
from vasae_jax.config.presets import quickstart as preset
from vasae_jax.dictionary.dictionary import Dictionary
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
from vasae_jax.report.run_report import Published
from vasae_jax.report.summary import summary
from vasae_jax.training.log import print_once
from vasae_jax.training.loop import train
from vasae_jax.training.run import Run, open_trained
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import refuse_existing
from vasae_jax.utils.progress import duration

TEXT = "pydoc-topics"
"""English that needs no download: the language reference that CPython carries."""
CONTEXT = 128
"""Tokens in a window, where the model takes as many."""
CHUNK_ROWS = 512
"""Small, so that a short text still has a chunk for each reading lane."""
T = TypeVar("T")


@dataclass(frozen=True)
class Quickstart:
    """What is made, from what, where."""

    out: str
    """Directory of everything that is made."""
    model: str | None
    """A model directory, a .gguf file or a hub name; None is the pinned SmolLM2-135M."""
    text: str
    """Documents, as tools/extract_flax.py takes them."""
    layers: tuple[int, ...] | None
    """Layers to extract; None: see :func:`default_layers`."""
    layer: int | None
    """The layer that is trained on; None is the middle one of ``layers``."""
    max_rows: int
    """Tokens of text used at most."""
    overwrite: bool
    """Replace what a run before this one left in ``out``."""


def run_quickstart(wanted: Quickstart, override: Callable[[Config], Config]) -> None:
    """Extract, train, evaluate, name, export, draw and write a report; print what came of it.

    An interrupted quickstart goes on where it was when the same command is run again.
    ``override`` applies the user's settings to the training config.

    Raises:
        UserError: something given cannot be used, or the outputs exist already.
        Stopped: a signal asked for it; progress is kept.
    """
    out = Path(wanted.out)
    npz, figure = out / "dictionary.npz", out / "alignment.png"
    page = ReportOptions(str(out / "report"), overwrite=wanted.overwrite)
    check_outputs(npz, wanted.overwrite)
    check_folder(page.out, page.overwrite)
    refuse_existing(figure, overwrite=wanted.overwrite)
    stages: dict[str, float] = {}

    layer = _make_cache(wanted, stages, str(out / "cache"))
    config = override(preset(str(out / "cache"), layer, str(out / "run")))
    if wanted.overwrite:
        config = replace(config, run=replace(config.run, overwrite=True))
    _timed(stages, "training", lambda: train(config))
    trained = open_trained(config.run.out)
    dictionary, evaluation, watch = _timed(
        stages, "evaluation and naming", lambda: publish(trained)
    )
    _timed(stages, "files", lambda: _write(dictionary, npz, figure, wanted.overwrite))
    index = _timed(
        stages,
        "report",
        lambda: _report(wanted, page, config.run.out, trained, (dictionary, evaluation, watch)),
    )
    print(summary(trained, dictionary, evaluation, watch))
    print(f"{out}: dictionary.npz, names.jsonl, meta.json, alignment.png")
    print(f"open {index} in a browser")
    print(", ".join(f"{stage} {duration(seconds)}" for stage, seconds in stages.items()))


def default_layers(count: int) -> tuple[int, ...]:
    """Layers at a third, a half and two thirds of the way up ``count`` blocks."""
    return tuple(sorted({count // 3, count // 2, 2 * count // 3}))


def _make_cache(wanted: Quickstart, stages: dict[str, float], url: str) -> int:
    """Load the model and extract; the layer to train on. The model's memory is free after it."""
    compute = faster_dtype()
    model = _timed(stages, "model", lambda: load_lm(wanted.model or fetch_smollm2(), compute))
    layers = wanted.layers or default_layers(model.spec.n_layers)
    layer = layers[len(layers) // 2] if wanted.layer is None else wanted.layer
    if layer not in layers:
        raise UserError(
            f"layer {layer} is to be trained on but layers {', '.join(map(str, layers))} are "
            "extracted; expected one of them"
        )
    _timed(stages, "extraction", lambda: _extract(wanted, model, layers, url))
    return layer


def _extract(wanted: Quickstart, model: LM, layers: tuple[int, ...], url: str) -> None:
    """Make the cache, finish it, or take the finished one if it is what is wanted."""
    if not wanted.overwrite and (Path(url) / "manifest.json").exists():
        found = Cache.open(url).manifest
        for what, old, new in (
            ("model", found.model.source_digest, model.source_digest),
            ("layers", tuple(site.layer for site in found.sites), layers),
            ("text", found.text.source, wanted.text),
        ):
            if old != new:
                raise UserError(
                    f"{url} holds a cache with {what} {old}; expected {new}, another --out, "
                    "or --overwrite"
                )
        print_once(f"{url} is complete")
        return
    settings = Settings(
        layers=layers,
        max_rows=wanted.max_rows,
        context_length=min(CONTEXT, model.spec.context_length),
        chunk_rows=CHUNK_ROWS,
    )
    documents = read_documents(wanted.text)
    print_once(
        f"extracting layers {', '.join(map(str, layers))} of {model.id} over {wanted.text} "
        f"({model.computed})"
    )
    extract(model, documents, url, settings, source=wanted.text, overwrite=wanted.overwrite)


def _write(dictionary: Dictionary, npz: Path, figure: Path, overwrite: bool) -> None:
    write_dictionary(npz, dictionary, overwrite)
    alignment_figure(dictionary, figure, overwrite)


def _report(
    wanted: Quickstart, page: ReportOptions, path: str, run: Run, published: Published
) -> Path:
    """The page, with the model loaded once more for its sentences."""
    model = load_lm(wanted.model or fetch_smollm2(), faster_dtype())
    return make_report(page, label_runs([(path, run)]), model, [published])


def _timed(stages: dict[str, float], name: str, stage: Callable[[], T]) -> T:
    started = time.monotonic()
    result = stage()
    stages[name] = time.monotonic() - started
    return result
