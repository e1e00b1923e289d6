"""What to call each of several runs: by the settings in which they differ."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vasae_jax.config import Config
from vasae_jax.training.run import Run
from vasae_jax.utils.errors import UserError


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


class Source(NamedTuple):
    """What a run's label is made of."""

    path: Path
    config: Config
    model: str
    imported: str = ""
    """Library and activation of an SAE that another library trained."""


def make_labels(runs: Sequence[Source]) -> list[Label]:
    """A label for each run; all differ.

    The layer is always told, another setting only where the runs differ in it, and the name of
    the directory where nothing else tells two runs apart. An import is told by its library: of
    its settings nothing is known that a run's could be compared with.
    """
    told = [_settings(run) for run in runs]
    own = [one for one, run in zip(told, runs, strict=True) if not run.imported]
    differ = [
        key
        for key in told[0]
        if key == "layer" or len({one[key] for one in (told if key in SHARED else own)}) > 1
    ]
    texts = [", ".join(one[key] for key in differ if one[key]) for one in told]
    labels: list[Label] = []
    for number, run in enumerate(runs):
        text = texts[number]
        if texts.count(text) > 1:
            text = f"{text}, {run.path.name}"
        same = [label for label in labels if label.text == text]
        text = f"{text} ({number + 1})" if same else text
        labels.append(Label(_key(text, labels), text, run.model, run.config.data.layer))
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
    labels = make_labels(
        [
            Source(path, run.config, run.cache.manifest.model.id, _imported(run))
            for path, (_, run) in zip(paths, runs, strict=True)
        ]
    )
    return [Given(*one) for one in zip(paths, labels, (run for _, run in runs), strict=True)]


SHARED = ("layer", "model", "method")
"""What imports have too."""


def _imported(run: Run) -> str:
    said = run.imported
    return "" if said is None else f"{said['library']} {said['activation']}"


def _settings(run: Source) -> dict[str, str]:
    config = run.config
    anchor, sae = config.anchor, config.sae
    pulled = sae.method == "soft"
    shared = {
        "layer": f"layer {config.data.layer}",
        "model": run.model,
        "method": run.imported or sae.method,
    }
    own = {
        "anchors": f"{anchor.kind} anchors" if pulled else "",
        "pulls": f"pulls the {anchor.pulls}" if pulled else "",
        "lambda": f"lambda {anchor.weight:g}" if pulled else "",
        "k": f"k {sae.k}",
        "features": f"{sae.d_sae} features",
        "steps": f"{config.run.steps} steps",
        "seed": f"seed {config.run.seed}",
    }
    return {**shared, **(dict.fromkeys(own, "") if run.imported else own)}


def _key(text: str, taken: Sequence[Label]) -> str:
    key = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "run"
    keys = {label.key for label in taken}
    found, number = key, 2
    while found in keys:
        found, number = f"{key}-{number}", number + 1
    return found
