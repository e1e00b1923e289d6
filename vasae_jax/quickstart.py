"""From a real model to a named dictionary in one command: every room, in order."""

import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from vasae_jax.cache import Cache
from vasae_jax.clock import duration
from vasae_jax.config import Config
from vasae_jax.contexts import contexts, largest
from vasae_jax.dictionary import Dictionary, write_dictionary
from vasae_jax.errors import UserError
from vasae_jax.evaluate import Evaluation
from vasae_jax.extract import Settings, extract, read_documents
from vasae_jax.files import refuse_existing
from vasae_jax.lm import LM, load_lm
from vasae_jax.lm.smollm2 import fetch_smollm2
from vasae_jax.naming import CLAIM
from vasae_jax.presets import quickstart as preset
from vasae_jax.publish import Run, open_trained, publish
from vasae_jax.report import alignment_figure
from vasae_jax.train.log import say
from vasae_jax.train.loop import train

TEXT = "pydoc-topics"
"""English that needs no download: the language reference that CPython carries."""
COMPUTE = "bfloat16"
"""Twice as fast as float32 on CPU; it moves SmolLM2's rows by 0.5% of their length."""
SHOWN = 12
"""Features in each of the two tables that are printed."""
OFTEN = 0.001
"""Share of rows on which a feature of the first table fires at least."""

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
    """The layer that is trained on; None is the last of ``layers``."""
    max_rows: int
    """Tokens of text used at most."""
    overwrite: bool
    """Replace what a run before this one left in ``out``."""


def run_quickstart(wanted: Quickstart, override: Callable[[Config], Config]) -> None:
    """Extract, train, evaluate, name, export and draw; print what came of it.

    An interrupted quickstart goes on where it was when the same command is run again.
    ``override`` applies the user's settings to the training config.

    Raises:
        UserError: something given cannot be used, or the outputs exist already.
        Stopped: a signal asked for it; progress is kept.
    """
    out = Path(wanted.out)
    npz, figure = out / "dictionary.npz", out / "alignment.png"
    for path in (npz, figure):
        refuse_existing(path, wanted.overwrite)
    stages: dict[str, float] = {}

    layer = _make_cache(wanted, stages, str(out / "cache"))
    config = override(preset(str(out / "cache"), layer, str(out / "run")))
    if wanted.overwrite:
        config = replace(config, run=replace(config.run, overwrite=True))
    _timed(stages, "training", lambda: train(config))
    trained = open_trained(config.run.out)
    dictionary, evaluation = _timed(stages, "evaluation and naming", lambda: publish(trained))
    _timed(stages, "files", lambda: _write(dictionary, npz, figure, wanted.overwrite))
    print(summary(trained, dictionary, evaluation))
    print(f"{out}: dictionary.npz, names.jsonl, meta.json, alignment.png")
    print(", ".join(f"{stage} {duration(seconds)}" for stage, seconds in stages.items()))


def default_layers(count: int) -> tuple[int, ...]:
    """Layers at a third, two thirds and nine tenths of the way up ``count`` blocks."""
    return tuple(sorted({count // 3, 2 * count // 3, 9 * count // 10}))


def summary(run: Run, dictionary: Dictionary, evaluation: Evaluation) -> str:
    """The evaluation, then the best and typical named features with where they fire."""
    parts = [
        evaluation.table(),
        f"Nearest names, of the features that fire on at least {OFTEN:.1%} of the rows",
        feature_table(run, dictionary, best_features(dictionary)),
        "Typical features: every so many, of all that fire from most to least often",
        feature_table(run, dictionary, typical_features(dictionary)),
        "\n".join(textwrap.wrap(CLAIM, 90)),
    ]
    return "\n\n".join(["", *parts])


def best_features(dictionary: Dictionary) -> list[int]:
    """The SHOWN features with the nearest names among those that fire OFTEN enough."""
    often = dictionary.fire_rate >= OFTEN
    order = np.lexsort((-dictionary.cosines[:, 0], ~often))
    return order[: min(SHOWN, int(often.sum()))].tolist()


def typical_features(dictionary: Dictionary) -> list[int]:
    """SHOWN features evenly spaced in the order of fire rate, of those that fire."""
    order = np.argsort(-dictionary.fire_rate, kind="stable")
    firing = int((dictionary.fire_rate > 0).sum())
    places = {(2 * index + 1) * firing // (2 * SHOWN) for index in range(SHOWN)}
    return [int(order[place]) for place in sorted(places) if place < firing]


def feature_table(run: Run, dictionary: Dictionary, features: list[int]) -> str:
    """Names of ``features`` beside the tokens that they fire at and fire before."""
    config, vocab = run.config, run.cache.vocab()
    found = contexts(
        run.params,
        run.cache,
        config.data.layer,
        features,
        k=dictionary.k,
        pre_bias=dictionary.pre_bias,
        skip_positions=config.data.skip_positions,
        max_norm=config.data.max_norm,
    )

    def shares(row: np.ndarray) -> str:
        return "  ".join(f"{vocab.display(token)} {share:.0%}" for token, share in largest(row))

    lines = [("feature", "fires", "cosine", "name", "fires at", "which comes before")]
    for place, feature in enumerate(features):
        token, cosine = dictionary.token_ids[feature, 0], dictionary.cosines[feature, 0]
        line = (str(feature), f"{dictionary.fire_rate[feature]:.2%}", f"{cosine:.2f}")
        name = vocab.display(int(token))
        lines.append((*line, name, shares(found.at[place]), shares(found.following[place])))
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    return "\n".join(
        "  ".join([*(f"{text:<{w}}" for text, w in zip(line[:5], widths, strict=True)), line[5]])
        for line in lines
    )


def _make_cache(wanted: Quickstart, stages: dict[str, float], url: str) -> int:
    """Load the model and extract; the layer to train on. The model's memory is free after it."""
    model = _timed(stages, "model", lambda: load_lm(wanted.model or fetch_smollm2(), COMPUTE))
    layers = wanted.layers or default_layers(model.spec.n_layers)
    layer = layers[-1] if wanted.layer is None else wanted.layer
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
            ("layers", found.layers, layers),
            ("text", found.text.source, wanted.text),
        ):
            if old != new:
                raise UserError(
                    f"{url} holds a cache with {what} {old}; expected {new}, another --out, "
                    "or --overwrite"
                )
        say(f"{url} is complete")
        return
    settings = Settings(layers=layers, max_rows=wanted.max_rows)
    documents = read_documents(wanted.text)
    say(f"extracting layers {', '.join(map(str, layers))} of {model.id} over {wanted.text}")
    extract(model, documents, url, settings, source=wanted.text, overwrite=wanted.overwrite)


def _write(dictionary: Dictionary, npz: Path, figure: Path, overwrite: bool) -> None:
    write_dictionary(npz, dictionary, overwrite)
    alignment_figure(dictionary, figure, overwrite)


def _timed(stages: dict[str, float], name: str, stage: Callable[[], T]) -> T:
    started = time.monotonic()
    result = stage()
    stages[name] = time.monotonic() - started
    return result
