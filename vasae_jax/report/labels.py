"""What to call each of several runs: by the settings in which they differ."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vasae_jax.config import Config
from vasae_jax.training.run import Run
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.public import public_model
from vasae_jax.utils.shown import shown

SHARED = ("layer", "model", "method")
"""What is known of an SAE from another library too."""


@dataclass(frozen=True)
class RunLabel:
    """The name of a run among others."""

    key: str
    """Small letters, digits and dashes; a folder's name and a part of links."""
    text: str
    """For people, such as ``layer 15, plain``."""
    model: str
    layer: int


@dataclass(frozen=True)
class LabelledRun:
    """A run to show."""

    path: Path
    label: RunLabel
    run: Run


class Source(NamedTuple):
    """What a run's label is made of."""

    path: Path
    config: Config
    model: str
    imported: str = ""
    """Library and activation of an SAE that another library trained."""


def label_runs(runs: Sequence[tuple[str, Run]]) -> list[LabelledRun]:
    """Runs by their directories, each with a label of its own.

    Raises:
        UserError: a directory is given twice.
    """
    sources = []
    for path, run in runs:
        record = run.imported
        imported = f"{record['library']} {record['activation']}" if record else ""
        model = public_model(run.cache.manifest.model.id)
        sources.append(Source(Path(path), run.config, model, imported))
    resolved = [source.path.resolve() for source in sources]
    for source in sources:
        if resolved.count(source.path.resolve()) > 1:
            raise UserError(f"run {source.path} is given twice; expected each run once")
    return [
        LabelledRun(source.path, label, run)
        for source, label, (_, run) in zip(sources, make_labels(sources), runs, strict=True)
    ]


def make_labels(runs: Sequence[Source]) -> list[RunLabel]:
    """A label for each run; all differ.

    The layer is always in it, another setting only where the runs differ in it, and the name of
    the directory where nothing else tells two runs apart. An imported SAE is labelled by its
    library, for its other settings are not known.
    """
    settings = [_settings(run) for run in runs]
    trained = [of for of, run in zip(settings, runs, strict=True) if not run.imported]
    differing = [
        key
        for key in settings[0]
        if key == "layer" or len({of[key] for of in (settings if key in SHARED else trained)}) > 1
    ]
    texts = [", ".join(of[key] for key in differing if of[key]) for of in settings]
    texts = [shown(text) for text in texts]
    labels: list[RunLabel] = []
    for number, (run, text) in enumerate(zip(runs, texts, strict=True), start=1):
        if texts.count(text) > 1:
            text = f"{text}, {shown(run.path.name)}"
        if any(label.text == text for label in labels):
            text = f"{text} ({number})"
        labels.append(RunLabel(_key(text, labels), text, shown(run.model), run.config.data.layer))
    return labels


def _settings(run: Source) -> dict[str, str]:
    config = run.config
    anchor, sae = config.anchor, config.sae
    anchored = sae.method == "soft"
    shared = {
        "layer": f"layer {config.data.layer}",
        "model": run.model,
        "method": run.imported or sae.method,
    }
    trained = {
        "anchors": f"{anchor.kind} anchors" if anchored else "",
        "pulls": f"pulls the {anchor.pulls}" if anchored else "",
        "lambda": f"lambda {anchor.weight:g}" if anchored else "",
        "k": f"k {sae.k}",
        "features": f"{sae.d_sae} features",
        "steps": f"{config.run.steps} steps",
        "seed": f"seed {config.run.seed}",
    }
    return {**shared, **(dict.fromkeys(trained, "") if run.imported else trained)}


def _key(text: str, labels: Sequence[RunLabel]) -> str:
    """``text`` as a key that none of ``labels`` has."""
    base = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "run"
    taken = {label.key for label in labels}
    key, number = base, 2
    while key in taken:
        key, number = f"{base}-{number}", number + 1
    return key
