"""The figure of a dictionary's alignment: how near its features are to tokens."""

import os
import textwrap
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vasae_jax.dictionary.claims import BUCKETS, CLAIM
from vasae_jax.dictionary.dictionary import Dictionary
from vasae_jax.evaluation.metrics import buckets
from vasae_jax.report.figures.chart import BLUE, ORANGE, save_figure, unstyled
from vasae_jax.utils.files import refuse_existing
from vasae_jax.utils.shown import shown

LIGHT_GREY = "#b3b3b3"
"""Differs from blue in lightness too, for print and for the colour-blind."""
BIN = 0.02


def alignment_figure(
    dictionary: Dictionary, out: str | os.PathLike[str], overwrite: bool = False
) -> Path:
    """Write the distribution of each feature's nearest cosine as a PNG.

    Two histograms lie over each other: the whole dictionary, and the features that fire. The
    same dictionary gives the same bytes (with one version of matplotlib).

    Raises:
        UserError: ``out`` exists and ``overwrite`` was not asked for, or it cannot be written.
    """
    refuse_existing(out, overwrite=overwrite)
    with unstyled():
        save_figure(_draw(dictionary), Path(out), kind="png", dpi=150)
    return Path(out)


def _draw(dictionary: Dictionary) -> Figure:
    figure = Figure(figsize=(8.4, 5.2))
    axes = figure.add_axes((0.11, 0.2, 0.86, 0.61))
    _histograms(axes, dictionary)
    _borders(axes, dictionary)
    figure.text(0.11, 0.935, _title(dictionary), fontsize=12.5, fontweight="bold")
    anchor = shown(str(dictionary.meta["anchor"]))
    figure.text(0.11, 0.885, f"Names refer to the {anchor}.", fontsize=9.5)
    figure.text(0.11, 0.025, textwrap.fill(CLAIM, 124), fontsize=7.5, color="#444444")
    return figure


def _histograms(axes: Axes, dictionary: Dictionary) -> None:
    cosines = dictionary.cosines[:, 0]
    fires = dictionary.fire_rate > 0
    edges = np.linspace(0, 1, round(1 / BIN) + 1).tolist()
    clipped = np.clip(cosines, 0, 1)  # float32 rounding can pass 1; the first bin takes negatives
    aligned = cosines >= BUCKETS[0][1]
    axes.hist(clipped, edges, color=LIGHT_GREY, label=_label("whole dictionary", aligned))
    axes.hist(
        clipped[fires],
        edges,
        histtype="step",
        linewidth=1.8,
        color=BLUE,
        label=_label("features that fire", aligned[fires]),
    )
    axes.set(
        xlim=(0, 1),
        ylim=(0, axes.get_ylim()[1] * 1.2),
        xlabel="cosine between a feature's decoder direction and its nearest token",
        ylabel="features",
    )
    axes.yaxis.set_major_formatter(lambda count, _: f"{count:,.0f}" if count % 1 == 0 else "")
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        borderaxespad=0.2,
        ncols=2,
        columnspacing=3,
        frameon=False,
        fontsize=9,
    )
    axes.spines[["top", "right"]].set_visible(False)


def _label(name: str, aligned: np.ndarray) -> str:
    share = aligned.mean() if aligned.size else 0.0
    return f"{name}: {aligned.size:,} ({share:.1%} strong)"


def _borders(axes: Axes, dictionary: Dictionary) -> None:
    """The bucket borders, and above each bucket how many features lie in it."""
    borders = [1.0, *(least for _, least in BUCKETS), 0.0]
    cosines, fires = dictionary.cosines[:, 0], dictionary.fire_rate > 0
    firing = buckets(cosines[fires])
    for border in borders[1:-1]:
        axes.axvline(border, color=ORANGE, linewidth=1, linestyle=(0, (4, 3)))
    for index, (name, count) in enumerate(buckets(cosines).items()):
        axes.text(
            (borders[index] + borders[index + 1]) / 2,
            0.985,
            f"{name}\n{firing[name]:,} of {count:,} fire",
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="top",
            fontsize=8,
        )


def _title(dictionary: Dictionary) -> str:
    origin = dictionary.meta["provenance"]
    model, layer = shown(str(origin["model"]["id"])), shown(str(origin["layer"]))
    short = model if len(model) <= 32 else "…" + model[-31:]
    return f"{short}, layer {layer}: alignment of {dictionary.d_sae:,} features"
