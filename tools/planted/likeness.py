"""How the features of an SAE fire, of a real layer or a planted one: what planting goes by."""

import numpy as np
import scipy.sparse
from truth import correlations

from vasae_jax.evaluation.run import SPLIT, evaluate_run, run_names
from vasae_jax.names.firings import FiringObserver, Firings
from vasae_jax.stream.source import rows_in_order
from vasae_jax.training.run import Run

ROWS = 40_000
"""Held-out rows that are read, about."""
LEAST = 20
"""Rows on which a feature fires, at least, for figures of its activation and correlation."""
OFTEN = 0.05
"""Firing rate above which a feature is dense."""


def likeness(run: Run) -> dict[str, float]:
    """Figures of a run's features on held-out rows, by name."""
    names, observer = run_names(run, by="weights"), FiringObserver(run.cache, SPLIT, ROWS)
    metrics = evaluate_run(run, names, SPLIT, observer).unmasked
    found = {"variance explained": metrics.variance_explained}
    if (within := metrics.variance_explained_within_tokens) is not None:
        found["share of the variance that the token tells"] = 1 - metrics.fvu / (1 - within)
    firings, count = observer.firings(), len(run.params["W_dec"])
    fired = np.bincount(firings.feature, minlength=count)
    found |= _rates(fired[fired > 0] / observer.rows) | _amounts(firings, fired, observer.rows)
    return found | _cosines(run, fired >= LEAST) | _together(firings, fired) | _mean_norm(run)


def _rates(rate: np.ndarray) -> dict[str, float]:
    quantiles = {f"firing rate, {q}%": float(np.percentile(rate, q)) for q in (5, 50, 95)}
    often = rate > OFTEN
    return quantiles | {
        "spread of its logarithm": float(np.log(rate).std()),
        f"features above {OFTEN:.0%}": float(often.mean()),
        "their share of firings": float(rate[often].sum() / rate.sum()),
    }


def _amounts(firings: Firings, fired: np.ndarray, rows: int) -> dict[str, float]:
    """How strongly features fire."""
    activation = firings.activation.astype(np.float64)
    sums = (np.bincount(firings.feature, activation**power, len(fired)) for power in (1, 2))
    mean, square = (total / np.maximum(fired, 1) for total in sums)
    usual, often = fired >= LEAST, fired > OFTEN * rows
    spread = np.sqrt(np.maximum(square - mean**2, 0)) / np.maximum(mean, 1e-12)
    return {
        "spread of the logarithm of mean activations": float(np.log(mean[usual]).std()),
        "spread of a feature's activation over its mean": float(np.median(spread[usual])),
        "mean activation of dense features over others'": float(
            np.median(mean[often]) / np.median(mean[usual & ~often])
        ),
    }


def _cosines(run: Run, usual: np.ndarray) -> dict[str, float]:
    """How near decoder rows are to each other."""
    rows = np.asarray(run.params["W_dec"], np.float64)[usual]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = rows @ rows.T
    pairs = cosines[np.triu_indices(len(rows), 1)]
    np.fill_diagonal(cosines, -1)
    return {
        "cosine of decoder rows over that of isotropic ones": float(
            np.sqrt(np.mean(pairs**2) * rows.shape[1])
        ),
        "cosine to the nearest decoder row, median": float(np.median(cosines.max(axis=1))),
    }


def _together(firings: Firings, fired: np.ndarray) -> dict[str, float]:
    """How features fire with each other."""
    row = np.unique(firings.row, return_inverse=True)[1]
    shape = (int(row.max()) + 1, len(fired))
    fires = scipy.sparse.csr_matrix((np.ones(len(row)), (row, firings.feature)), shape)
    fires = fires[:, np.flatnonzero(fired >= LEAST)]
    phi = correlations(fires, fires)
    np.fill_diagonal(phi, -1)
    largest = phi.max(axis=1)
    name = "largest correlation of firing with another"
    return {f"{name}, {q}%": float(np.percentile(largest, q)) for q in (50, 90)}


def _mean_norm(run: Run) -> dict[str, float]:
    """Length of the mean row over the root mean square distance of rows from it."""
    data = run.config.data
    batch = next(iter(rows_in_order(run.cache, data.input_site, SPLIT, data.mask, batch=ROWS)))
    x = batch.x[batch.keep & (batch.docs >= 0)].astype(np.float64)
    mean = x.mean(axis=0)
    distance = np.sqrt(np.sum((x - mean) ** 2, axis=1).mean())
    return {"length of the mean row over the spread": float(np.linalg.norm(mean) / distance)}
