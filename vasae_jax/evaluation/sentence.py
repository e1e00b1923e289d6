"""The feature most active at each token of one sentence.

As in the paper's case studies, each feature's mean over the sentence is first subtracted, so
that a feature which fires everywhere does not hide those that fire at a single token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np

from vasae_jax.activations import activation_of
from vasae_jax.cache.manifest import Manifest
from vasae_jax.evaluation.patching.model import Model
from vasae_jax.sae import encode
from vasae_jax.training.run import Run
from vasae_jax.utils.errors import UserError

Mode = Literal["centred", "raw"]
MODES: tuple[Mode, ...] = ("centred", "raw")
"""With each feature's mean over the sentence subtracted, or without."""

LENGTHS = 32
"""Windows are padded to a multiple of this many tokens."""


@dataclass(frozen=True)
class Cells:
    """The feature most active at each token, in one run; arrays [T]."""

    feature: np.ndarray
    """int32, -1 where nothing is above 0 or the position is masked"""
    value: np.ndarray
    """float32, its activation, less its mean over the sentence where the mode says so"""
    activation: np.ndarray
    """float32, its activation itself"""


def sentence_cells(
    runs: Sequence[Run], model: Model, text: str
) -> tuple[np.ndarray, dict[Mode, list[Cells]]]:
    """The tokens of ``text`` int [T], and for each mode the cells of each run.

    The sentence is run as one window, after a BOS where the cache has one, which is left out of
    the result. Positions that the run masks count nowhere and have no cell.

    Raises:
        UserError: no token, more of them than the model's context takes, or runs on caches of
            different models.
    """
    manifest = runs[0].cache.manifest
    tokens, prefix = _tokens(model, manifest, text)
    sites = sorted({run.config.data.input_site for run in runs})
    rows = np.asarray(model.residuals(_padded(model, tokens)[None, :], sites))
    rows = rows[:, 0, : len(tokens)]
    cells: dict[Mode, list[Cells]] = {mode: [] for mode in MODES}
    for run in runs:
        z = activations(run, rows[sites.index(run.config.data.input_site)])
        counts = np.arange(len(z)) >= max(prefix, run.config.data.skip_positions)
        for mode in MODES:
            cells[mode].append(strongest(z, counts, mode, prefix))
    return tokens[prefix:], cells


def _padded(model: Model, tokens: np.ndarray) -> np.ndarray:
    """``tokens`` padded with zeros, so that sentences of similar length share a program.

    Attention is causal, so the zeros change no row.
    """
    length = min(-(-len(tokens) // LENGTHS) * LENGTHS, int(model.spec.context_length))
    return np.pad(tokens, (0, length - len(tokens)))


def activations(run: Run, rows: np.ndarray) -> np.ndarray:
    """The activations of a run's features on ``rows`` [T, d]; float32 [T, F]."""
    sae, features = run.config.sae, run.params["W_dec"].shape[0]
    x = jnp.asarray(rows, jnp.float32)
    values, ids = encode(run.params, x, activation_of(sae), sae.pre_bias)
    z = np.zeros((len(rows), features), np.float32)
    np.put_along_axis(z, np.asarray(ids), np.asarray(values), axis=1)
    return z


def strongest(z: np.ndarray, counts: np.ndarray, mode: Mode, prefix: int = 0) -> Cells:
    """The cells of activations ``z`` [T, F] at positions from ``prefix``.

    Args:
        z: activations.
        counts: bool [T], positions that have a cell and over which means are taken.
        mode: whether each feature's mean is subtracted.
        prefix: positions before the sentence.
    """
    mean = z[counts].mean(axis=0) if mode == "centred" and counts.any() else np.zeros(z.shape[1])
    centred = (z - mean[None, :])[prefix:]
    feature = centred.argmax(axis=1).astype(np.int32)
    position = np.arange(len(centred))
    value, activation = centred[position, feature], z[prefix:][position, feature]
    active = counts[prefix:] & (value > 0)
    return Cells(
        np.where(active, feature, -1).astype(np.int32),
        np.where(active, value, 0).astype(np.float32),
        np.where(active, activation, 0).astype(np.float32),
    )


def _tokens(model: Model, manifest: Manifest, text: str) -> tuple[np.ndarray, int]:
    """The window int32 [prefix + T], and how many tokens come before the sentence."""
    sentence, bos = model.tokenizer.encode(text), model.tokenizer.bos_id
    prefix = int(manifest.bos and bos is not None)
    most = int(model.spec.context_length)
    if not sentence or prefix + len(sentence) > most:
        raise UserError(
            f"the text {text[:40]!r} has {len(sentence)} tokens; expected 1 to {most - prefix}, "
            f"the context of {model.id}"
        )
    return np.array([bos, *sentence][1 - prefix :], np.int32), prefix
