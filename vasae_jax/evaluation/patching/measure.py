"""How well a layer's reconstruction carries the model's predictions: CE recovered, KL, lens."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vasae_jax.activations import Activation, activation_of
from vasae_jax.cache import Cache
from vasae_jax.evaluation.patching.model import Model, Windows, WindowTable, patched_logits, whole
from vasae_jax.sae import Params, reconstruct
from vasae_jax.stream import statistics
from vasae_jax.training.run import Run
from vasae_jax.utils.progress import Progress

# Logits against a model's own: cross-entropy, KL, and the largest.
#
# All run over [S, T, V] numbers, which takes a good part of the time of a small model's forward pass.
# So what is the same for all patches is worked out once, and of a patch nothing of that size is
# written but its logits.


class Own(NamedTuple):
    """What the untouched model says, worked out once for all patches."""

    logits: jax.Array
    """[S, T, V] float32"""
    shares: jax.Array
    """[S, T, V] float32, the probabilities"""
    log_sum: jax.Array
    """[S, T] float32, log sum exp of the logits"""


@jax.jit
def known(logits: jax.Array) -> Own:
    """Of the model's ``logits`` [S, T, V]."""
    logits = logits.astype(jnp.float32)
    log_sum = _log_sum(logits)
    return Own(logits, jnp.exp(logits - log_sum[..., None]), log_sum)


@jax.jit
def compare(own: Own, other: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of ``other`` and KL(own || other), both float32 [S, T] in nats.

    With p the model's probabilities, KL is sum p (own - other) and the difference of log sums: 0
    where the two are equal, and no log-probabilities are written.

    Args:
        own: what the model says.
        other: the patched model's logits [S, T, V].
        targets: int32 [S, T], next tokens.
    """
    other = other.astype(jnp.float32)
    log_sum = _log_sum(other)
    kl = jnp.sum(own.shares * (own.logits - other), axis=-1) + log_sum - own.log_sum
    return cross_entropy(other, log_sum, targets), kl


@jax.jit
def cross_entropy(logits: jax.Array, log_sum: jax.Array, targets: jax.Array) -> jax.Array:
    """Of ``logits`` [S, T, V] whose log sum exp is ``log_sum`` [S, T], for ``targets``; [S, T]."""
    return log_sum - jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]


def _log_sum(logits: jax.Array) -> jax.Array:
    """log sum exp over the last axis."""
    most = jnp.max(logits, axis=-1)
    return most + jnp.log(jnp.sum(jnp.exp(logits - most[..., None]), axis=-1))


@jax.jit
def largest(logits: jax.Array) -> jax.Array:
    """The first of the largest, int32 [S, T]; XLA on CPU takes four times as long to ``argmax``."""
    ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    none = jnp.full_like(ids, logits.shape[-1])
    there = logits == jnp.max(logits, axis=-1, keepdims=True)
    return jnp.min(jnp.where(there, ids, none), axis=-1)


# What patching a layer says, as JSON and as a table.


POLICIES = ("every_row", "unmasked_rows")
"""Rows that are replaced: all of a window's, or all but first positions and norm outliers."""
POPULATIONS = ("unmasked", "all_rows")
"""Rows over which the logit lens is compared, named as in an evaluation."""
PATCHES = ("identity", "sae", "mean", "zero")
"""What they are replaced by: themselves, the SAE's x_hat, the mean row, 0."""


@dataclass(frozen=True)
class Effect:
    """What one patch does to next-token prediction, as means over the scored positions."""

    ce: float
    """Cross-entropy (nats)."""
    kl: float
    """KL(model || patched model) (nats)."""
    ce_recovered: float | None
    """1 - (ce - CE) / (CE_zero - CE); None if zeros predict no worse than the model."""
    ce_recovered_over_mean: float | None
    """The same with the mean row as the floor."""


@dataclass(frozen=True)
class Lens:
    """How often a replacement's largest logit by the logit lens is the row's own."""

    rows: int
    sae: float
    """Share of the rows, for the SAE's x_hat."""
    mean: float
    """Share of the rows, for the mean row: the baseline."""


@dataclass(frozen=True)
class LMFigures:
    """A model with one layer's output replaced."""

    model: str
    computed: str
    """How the model was run, in words."""
    layer: int
    windows: int
    positions: int
    """Scored positions: those whose next token lies in the window, masked or not."""
    rows: int
    """Rows of the windows."""
    masked_rows: int
    """Of these, first positions and norm outliers."""
    ce: float
    """Cross-entropy of the untouched model (nats)."""
    patched: Mapping[str, Mapping[str, Effect]]
    """By policy of which rows are replaced, then by what replaces them."""
    logit_lens: Mapping[str, Lens]
    """By population of rows."""

    def to_json(self) -> dict[str, Any]:
        """A JSON value."""
        return asdict(self)

    def table(self) -> str:
        """A readable table, one block for each policy."""
        lines = [
            f"{self.model} ({self.computed}) with the output of layer {self.layer} replaced: "
            f"{self.windows} windows, {self.positions} predictions, {self.masked_rows} of "
            f"{self.rows} rows masked",
            _line("", "CE", "KL", "recovered", "over mean"),
            _line("model untouched", f"{self.ce:.4f}", "", "", ""),
            *self._patch_lines(),
            _line("logit lens: same top token", "SAE", "mean row", "rows", ""),
        ]
        for name, lens in self.logit_lens.items():
            shares = f"{lens.sae:.1%}", f"{lens.mean:.1%}", f"{lens.rows}"
            lines.append(_line(f"  {name.replace('_', ' ')}", *shares, ""))
        return "\n".join(line.rstrip() for line in lines)

    def _patch_lines(self) -> Iterator[str]:
        words = {"every_row": "every row replaced", "unmasked_rows": "masked rows left untouched"}
        names = {"identity": "itself", "sae": "SAE", "mean": "mean row", "zero": "zero"}
        for policy, found in self.patched.items():
            yield words[policy]
            for name, effect in found.items():
                shares = (effect.ce_recovered, effect.ce_recovered_over_mean)
                texts = ("-" if share is None else f"{share:.4f}" for share in shares)
                yield _line(f"  {names[name]}", f"{effect.ce:.4f}", f"{effect.kl:.4f}", *texts)


def effects(means: Mapping[str, np.ndarray], ce: float) -> dict[str, Effect]:
    """The effects of the patches of one policy.

    Args:
        means: cross-entropy and KL of each patch, [2].
        ce: cross-entropy of the untouched model.
    """
    zero, mean = float(means["zero"][0]), float(means["mean"][0])
    return {
        name: Effect(
            ce=float(own),
            kl=float(kl),
            ce_recovered=recovered(float(own), ce, zero),
            ce_recovered_over_mean=recovered(float(own), ce, mean),
        )
        for name, (own, kl) in means.items()
    }


def recovered(patched: float, ce: float, floor: float) -> float | None:
    """1 - (patched - ce) / (floor - ce); None if the floor is no worse than the model."""
    return 1 - (patched - ce) / (floor - ce) if floor > ce else None


def _line(head: str, *cells: str) -> str:
    return f"{head:<32}" + "".join(f"{cell:>12}" for cell in cells)


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
        x_hat = _reconstruct(
            self._run.params, x, activation=activation_of(sae), pre_bias=sae.pre_bias
        )
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


@partial(jax.jit, static_argnames=("activation", "pre_bias"))
def _reconstruct(
    params: Params, x: jax.Array, activation: Activation, pre_bias: float
) -> jax.Array:
    """x_hat of ``x``, both [S, T, d] float32."""
    rows = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    return reconstruct(params, rows, activation, pre_bias).reshape(x.shape)


def _sums(own: Own, other: jax.Array, windows: Windows) -> np.ndarray:
    """What :func:`compare` gives, summed over the scored positions; float64 [2]."""
    both = np.asarray(compare(own, other, windows.targets), np.float64)
    sums: np.ndarray = both[:, windows.scored].sum(axis=1)
    return sums
