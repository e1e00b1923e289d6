"""How well a layer's reconstruction carries the model's predictions: CE recovered, KL, lens."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from vasae_jax.cache import Cache
from vasae_jax.evaluation.patching.compare import Own, compare, cross_entropy, known, largest
from vasae_jax.evaluation.patching.figures import (
    PATCHES,
    POLICIES,
    POPULATIONS,
    Lens,
    LMFigures,
    effects,
)
from vasae_jax.evaluation.patching.model import Model, patched_logits, whole
from vasae_jax.evaluation.patching.windows import Windows, WindowTable
from vasae_jax.sae import Params, reconstruct
from vasae_jax.stream import statistics
from vasae_jax.system.progress import Progress
from vasae_jax.training.trained import Run

LOGIT_BYTES = 128 * 2**20
"""Windows run at once hold about this many bytes of logits (one window at least)."""


def measure_lm(
    run: Run, model: Model, split: str, most_windows: int, at_once: int | None = None
) -> LMFigures:
    """Patch the run's layer over at most ``most_windows`` evenly spaced windows of ``split``.

    Per position everything is float32 on the device; sums over positions are float64 on the
    host, so the figures do not depend on how many windows run ``at_once`` beyond rounding.

    Raises:
        UserError: the cache lacks the split, or a column is damaged.
    """
    data = run.config.data
    place = (run.cache, data.layer, split, data.mask)
    table = WindowTable.of(*place)
    mean = jnp.asarray(statistics(*place).mean, jnp.float32)
    numbers, sums = table.sample(most_windows), _Pass(run, model, mean)
    size = at_once or windows_at_once(run.cache, len(numbers))
    with Progress(len(numbers), unit="windows patched") as progress:
        for first in range(0, len(numbers), size):
            sums.add(table.take(numbers[first : first + size], size))
            progress.update(min(first + size, len(numbers)))
        progress.finish(len(numbers))
    return sums.figures(len(numbers))


def windows_at_once(cache: Cache, needed: int) -> int:
    """How many windows' logits take LOGIT_BYTES: at least 1, and no more than are ``needed``."""
    window = 4 * cache.manifest.context_length * cache.manifest.vocab_size
    return max(1, min(LOGIT_BYTES // window, needed))


class _Pass:
    """Float64 sums over the windows seen, for the model and for every patch of it."""

    def __init__(self, run: Run, model: Model, mean: jax.Array) -> None:
        self._run, self._model, self._mean = run, model, mean
        self._layer = run.config.data.layer
        self._positions = self._rows = self._masked = 0
        self._ce = 0.0
        self._sums = {(policy, name): np.zeros(2) for policy in POLICIES for name in PATCHES}
        self._lens = _LensSums(model, mean)

    def add(self, windows: Windows) -> None:
        """Run ``windows`` untouched and with every patch."""
        x, logits = whole(self._model, windows.tokens, self._layer)
        own = known(logits)
        sae = self._run.config.sae
        x_hat = _reconstruct(self._run.params, x, k=sae.k, pre_bias=sae.pre_bias)
        self._positions += int(windows.scored.sum())
        self._rows += int(windows.real.sum())
        self._masked += int((windows.real & ~windows.keep).sum())
        losses = cross_entropy(own.logits, own.log_sum, windows.targets)
        self._ce += float(np.asarray(losses, np.float64)[windows.scored].sum())
        mean, zero = jnp.broadcast_to(self._mean[None, None], x.shape), jnp.zeros_like(x)
        identity = self._effect(own, x, windows)
        for policy, chosen in zip(POLICIES, (windows.real, windows.keep), strict=True):
            self._sums[policy, "identity"] += identity
            for name, rows in (("sae", x_hat), ("mean", mean), ("zero", zero)):
                patched = jnp.where(chosen[..., None], rows, x)
                self._sums[policy, name] += self._effect(own, patched, windows)
        self._lens.add(windows, x, x_hat)

    def _effect(self, own: Own, rows: jax.Array, windows: Windows) -> np.ndarray:
        """Sums of cross-entropy and KL [2] with ``rows`` [S, T, d] as the layer's output."""
        other = patched_logits(self._model, windows.tokens, rows, self._layer)
        return _sums(own, other, windows)

    def figures(self, windows: int) -> LMFigures:
        """What the sums say of ``windows`` windows."""
        count = max(self._positions, 1)
        means = {variant: sums / count for variant, sums in self._sums.items()}
        return LMFigures(
            model=self._model.id,
            computed=self._model.computed,
            layer=self._layer,
            windows=windows,
            positions=self._positions,
            rows=self._rows,
            masked_rows=self._masked,
            ce=self._ce / count,
            patched={
                policy: effects({name: means[policy, name] for name in PATCHES}, self._ce / count)
                for policy in POLICIES
            },
            logit_lens=self._lens.figures(),
        )


class _LensSums:
    """Rows whose replacement has the same largest logit as the row itself, by the logit lens."""

    def __init__(self, model: Model, mean: jax.Array) -> None:
        self._model = model
        self._mean = self._tokens(np.zeros((1, 1), np.int32), mean[None, None])[0, 0]
        self._rows = dict.fromkeys(POPULATIONS, 0)
        self._hits = {(rows, name): 0 for rows in POPULATIONS for name in ("sae", "mean")}

    def add(self, windows: Windows, x: jax.Array, x_hat: jax.Array) -> None:
        """Count the rows of ``windows``; ``x`` and ``x_hat`` [S, T, d]."""
        own = self._tokens(windows.tokens, x)
        same = {"sae": own == self._tokens(windows.tokens, x_hat), "mean": own == self._mean}
        for rows, chosen in zip(POPULATIONS, (windows.keep, windows.real), strict=True):
            self._rows[rows] += int(chosen.sum())
            for name, agrees in same.items():
                self._hits[rows, name] += int(agrees[chosen].sum())

    def figures(self) -> dict[str, Lens]:
        """The shares, by population of rows."""
        found = {}
        for rows, count in self._rows.items():
            sae, mean = (self._hits[rows, name] / max(count, 1) for name in ("sae", "mean"))
            found[rows] = Lens(count, sae, mean)
        return found

    def _tokens(self, tokens: np.ndarray, rows: jax.Array) -> np.ndarray:
        """The largest logit's token if ``rows`` [S, T, d] went into the final norm and head."""
        last = self._model.spec.n_layers - 1
        return np.asarray(largest(patched_logits(self._model, tokens, rows, last)))


@partial(jax.jit, static_argnames=("k", "pre_bias"))
def _reconstruct(params: Params, x: jax.Array, k: int, pre_bias: float) -> jax.Array:
    """x_hat of ``x``, both [S, T, d] float32."""
    rows = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    return reconstruct(params, rows, k, pre_bias).reshape(x.shape)


def _sums(own: Own, other: jax.Array, windows: Windows) -> np.ndarray:
    """What :func:`compare` gives, summed over the scored positions; float64 [2]."""
    both = np.asarray(compare(own, other, windows.targets), np.float64)
    sums: np.ndarray = both[:, windows.scored].sum(axis=1)
    return sums
