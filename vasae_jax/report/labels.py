"""What to call each of several runs: by the settings in which they differ."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vasae_jax.config import Config
from vasae_jax.system.errors import UserError
from vasae_jax.training.trained import Run


@dataclass(frozen=True)
class Label:
    """The name of a run among others."""

    key: str
    """Small letters, digits and dashes; a folder's name and a part of links."""
    text: str
    """For people, such as ``layer 15, plain``."""
    model: str
    layer: int


@dataclass(frozen=True)
class Given:
    """A run to show."""

    path: Path
    label: Label
    run: Run


def make_labels(runs: Sequence[tuple[Path, Config, str]]) -> list[Label]:
    """A label for each run, given its directory, settings and model; all differ.

    The layer is always told, another setting only where the runs differ in it, and the name of
    the directory where nothing else tells two runs apart.
    """
    told = [_settings(config, model) for _, config, model in runs]
    differ = [key for key in told[0] if key == "layer" or len({one[key] for one in told}) > 1]
    texts = [", ".join(one[key] for key in differ if one[key]) for one in told]
    labels: list[Label] = []
    for number, (path, config, model) in enumerate(runs):
        text = texts[number]
        if texts.count(text) > 1:
            text = f"{text}, {path.name}"
        same = [label for label in labels if label.text == text]
        text = f"{text} ({number + 1})" if same else text
        labels.append(Label(_key(text, labels), text, model, config.data.layer))
    return labels


def given_runs(runs: Sequence[tuple[str, Run]]) -> list[Given]:
    """Runs by their directories, each with a label of its own.

    Raises:
        UserError: a directory is given twice.
    """
    paths = [Path(path) for path, _ in runs]
    for path in paths:
        if [other.resolve() for other in paths].count(path.resolve()) > 1:
            raise UserError(f"run {path} is given twice; expected each run once")
    told = [
        (path, run.config, run.cache.manifest.model.id)
        for path, (_, run) in zip(paths, runs, strict=True)
    ]
    labels = make_labels(told)
    return [Given(*one) for one in zip(paths, labels, (run for _, run in runs), strict=True)]


def _settings(config: Config, model: str) -> dict[str, str]:
    anchor, sae = config.anchor, config.sae
    pulled = sae.method == "soft"
    return {
        "layer": f"layer {config.data.layer}",
        "model": model,
        "method": sae.method,
        "anchors": f"{anchor.kind} anchors" if pulled else "",
        "pulls": f"pulls the {anchor.pulls}" if pulled else "",
        "lambda": f"lambda {anchor.weight:g}" if pulled else "",
        "k": f"k {sae.k}",
        "features": f"{sae.d_sae} features",
        "steps": f"{config.run.steps} steps",
        "seed": f"seed {config.run.seed}",
    }


def _key(text: str, taken: Sequence[Label]) -> str:
    key = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "run"
    keys = {label.key for label in taken}
    found, number = key, 2
    while found in keys:
        found, number = f"{key}-{number}", number + 1
    return found
