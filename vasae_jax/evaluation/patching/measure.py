"""How well an SAE's reconstructions preserve the model's predictions: CE recovered, KL, lens.

Work on [S, T, V] logits takes a good part of the time of a small model's forward pass. What all
patches share is therefore computed once, and a patch stores nothing of that size but its logits.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vasae_jax.activations import Activation, activation_of
from vasae_jax.cache import Cache
from vasae_jax.evaluation.patching.model import (
    Model,
    Windows,
    WindowTable,
    patched_logits,
    rows_and_logits,
)
from vasae_jax.sae import Params, reconstruct
from vasae_jax.sites import Site
from vasae_jax.stream.statistics import statistics
from vasae_jax.training.run import Run
from vasae_jax.utils.progress import Progress
from vasae_jax.utils.shown import shown


class Reference(NamedTuple):
    """The predictions of the untouched model, computed once for all patches."""

    logits: jax.Array
    """[S, T, V] float32"""
    probabilities: jax.Array
    """[S, T, V] float32"""
    log_sum: jax.Array
    """[S, T] float32, log sum exp of the logits"""


@jax.jit
def reference_of(logits: jax.Array) -> Reference:
    """The reference of the untouched model's ``logits`` [S, T, V]."""
    logits = logits.astype(jnp.float32)
    log_sum = _log_sum(logits)
    return Reference(logits, jnp.exp(logits - log_sum[..., None]), log_sum)


@jax.jit
def compare(
    reference: Reference, logits: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of ``logits`` and KL(reference || logits), both float32 [S, T] in nats.

    With p the model's probabilities, KL is sum p (reference - logits) plus the difference of the
    log sums: 0 where the two are equal, and without storing log-probabilities.

    Args:
        reference: the untouched model's predictions.
        logits: the patched model's, [S, T, V].
        targets: int32 [S, T], next tokens.
    """
    logits = logits.astype(jnp.float32)
    log_sum = _log_sum(logits)
    change = reference.probabilities * (reference.logits - logits)
    kl = jnp.sum(change, axis=-1) + log_sum - reference.log_sum
    return cross_entropy(logits, log_sum, targets), kl


@jax.jit
def cross_entropy(logits: jax.Array, log_sum: jax.Array, targets: jax.Array) -> jax.Array:
    """Cross-entropy [S, T] of ``logits`` [S, T, V], whose log sum exp is ``log_sum`` [S, T]."""
    return log_sum - jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]


def _log_sum(logits: jax.Array) -> jax.Array:
    """log sum exp over the last axis."""
    most = jnp.max(logits, axis=-1)
    return most + jnp.log(jnp.sum(jnp.exp(logits - most[..., None]), axis=-1))


@jax.jit
def top_token(logits: jax.Array) -> jax.Array:
    """``argmax`` over the last axis, int32 [S, T], in a quarter of its time on a CPU."""
    ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    none = jnp.full_like(ids, logits.shape[-1])
    largest = logits == jnp.max(logits, axis=-1, keepdims=True)
    return jnp.min(jnp.where(largest, ids, none), axis=-1)


POLICIES = {"every_row": "every row replaced", "unmasked_rows": "masked rows left untouched"}
"""Which rows are replaced (all of a window's, or all but first positions and norm outliers), and
how a table words it."""
POPULATIONS = ("unmasked", "all_rows")
"""Rows over which the logit lens is compared, by their names in an evaluation."""
PATCHES = {"identity": "itself", "sae": "SAE", "mean": "mean row", "zero": "zero"}
"""What rows are replaced by (themselves, the SAE's x_hat, the mean row, 0), and its heading."""


@dataclass(frozen=True)
class Effect:
    """The effect of one patch on next-token prediction, as means over the scored positions."""

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
    """How often a replaced row has the same top token by the logit lens as the row itself."""

    rows: int
    sae: float
    """Share of the rows, for the SAE's x_hat."""
    mean: float
    """Share of the rows, for the mean row: the baseline."""


@dataclass(frozen=True)
class SAEWindows:
    """The effect of the SAE's x_hat on each window that ran, for intervals; arrays [S]."""

    first_row: np.ndarray
    """int64, the window's first row in the split"""
    positions: np.ndarray
    """int64, scored positions"""
    kl: Mapping[str, np.ndarray]
    """float64 by policy, KL(model || patched model) summed over these positions"""


@dataclass(frozen=True)
class PatchingResult:
    """The effect on a model's predictions of replacing the rows at one site."""

    model: str
    computed: str
    """How the model was run, in words."""
    layer: int
    site: str
    """The kind of the site in that layer."""
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
    sae_windows: SAEWindows = field(repr=False, compare=False)
    """The windows one by one."""

    def to_json(self) -> dict[str, Any]:
        """A JSON value: everything but ``sae_windows``."""
        value = asdict(self)
        del value["sae_windows"]
        return value

    def table(self) -> str:
        """A readable table, one block for each policy."""
        lines = [
            f"{shown(self.model)} ({self.computed}) with {Site(self.layer, self.site)} replaced: "
            f"{self.windows} windows, {self.positions} predictions, {self.masked_rows} of "
            f"{self.rows} rows masked",
            _line("", "CE", "KL", "recovered", "over mean"),
            _line("model untouched", f"{self.ce:.4f}"),
            *self._patch_lines(),
            _line("logit lens: same top token", "SAE", "mean row", "rows"),
        ]
        for name, lens in self.logit_lens.items():
            cells = f"{lens.sae:.1%}", f"{lens.mean:.1%}", f"{lens.rows}"
            lines.append(_line(f"  {name.replace('_', ' ')}", *cells))
        return "\n".join(lines)

    def _patch_lines(self) -> Iterator[str]:
        for policy, patches in self.patched.items():
            yield POLICIES[policy]
            for name, effect in patches.items():
                # ce, kl and both shares recovered, in this order.
                cells = (
                    "-" if value is None else f"{value:.4f}" for value in vars(effect).values()
                )
                yield _line(f"  {PATCHES[name]}", *cells)


def effects(means: Mapping[str, np.ndarray], ce: float) -> dict[str, Effect]:
    """The effects of the patches of one policy.

    Args:
        means: cross-entropy and KL of each patch, [2].
        ce: cross-entropy of the untouched model.
    """
    floors = [float(means[name][0]) for name in ("zero", "mean")]
    result = {}
    for name, (patched, kl) in means.items():
        loss = float(patched)
        shares = (1 - (loss - ce) / (floor - ce) if floor > ce else None for floor in floors)
        result[name] = Effect(loss, float(kl), *shares)
    return result


def _line(head: str, *cells: str) -> str:
    return (f"{head:<32}" + "".join(f"{cell:>12}" for cell in cells)).rstrip()


LOGIT_BYTES = 128 * 2**20
"""Bytes of logits of the windows that run at once, about (at least one window)."""


def measure_lm(
    run: Run, model: Model, split: str, most_windows: int, at_once: int | None = None
) -> PatchingResult:
    """Patch the run's site over at most ``most_windows`` evenly spaced windows of ``split``.

    Positions are computed in float32 on the device and summed in float64 on the host, so the
    result does not depend on how many windows run ``at_once`` beyond rounding.

    Raises:
        UserError: the cache lacks the split, or a column is damaged.
    """
    data = run.config.data
    source = (run.cache, data.input_site, split, data.mask)
    table = WindowTable.of(*source)
    mean = jnp.asarray(statistics(*source).mean, jnp.float32)
    numbers, sums = table.sample(most_windows), _Sums(run, model, mean)
    size = at_once or windows_at_once(run.cache, len(numbers))
    with Progress(len(numbers), unit="windows patched") as progress:
        for first in range(0, len(numbers), size):
            sums.add(table.take(numbers[first : first + size], size))
            progress.update(min(first + size, len(numbers)))
        progress.finish(len(numbers))
    return sums.result(table.first_rows(numbers))


def windows_at_once(cache: Cache, needed: int) -> int:
    """How many windows have LOGIT_BYTES of logits: from 1 to ``needed``."""
    window = 4 * cache.manifest.context_length * cache.manifest.vocab_size
    return max(1, min(LOGIT_BYTES // window, needed))


class _Sums:
    """Float64 sums over the windows so far, for the untouched model and every patch."""

    def __init__(self, run: Run, model: Model, mean: jax.Array) -> None:
        self._run, self._model, self._mean = run, model, mean
        self._site = run.config.data.input_site
        self._ce = 0.0
        self._positions: list[np.ndarray] = []
        self._sae_kl: dict[str, list[np.ndarray]] = {policy: [] for policy in POLICIES}
        self._rows = dict.fromkeys(POPULATIONS, 0)
        self._sums = {(policy, name): np.zeros(2) for policy in POLICIES for name in PATCHES}
        self._mean_token = self._lens(np.zeros((1, 1), np.int32), mean[None, None])[0, 0]
        self._same_token = {(rows, name): 0 for rows in POPULATIONS for name in ("sae", "mean")}

    def add(self, windows: Windows) -> None:
        """Run ``windows`` untouched and with every patch."""
        x, logits = rows_and_logits(self._model, windows.tokens, self._site)
        reference = reference_of(logits)
        sae = self._run.config.sae
        x_hat = _reconstruct(self._run.params, x, activation_of(sae), sae.pre_bias)
        self._positions.append(windows.scored.sum(axis=1))
        losses = cross_entropy(reference.logits, reference.log_sum, windows.targets)
        self._ce += float(np.asarray(losses, np.float64)[windows.scored].sum())
        mean, zero = jnp.broadcast_to(self._mean[None, None], x.shape), jnp.zeros_like(x)
        identity = self._effect(reference, x, windows)
        for policy, chosen in zip(POLICIES, (windows.real, windows.keep), strict=True):
            self._sums[policy, "identity"] += identity.sum(axis=1)
            for name, rows in (("sae", x_hat), ("mean", mean), ("zero", zero)):
                patched = jnp.where(chosen[..., None], rows, x)
                effect = self._effect(reference, patched, windows)
                self._sums[policy, name] += effect.sum(axis=1)
                if name == "sae":
                    self._sae_kl[policy].append(effect[1])
        self._add_lens(windows, x, x_hat)

    def _add_lens(self, windows: Windows, x: jax.Array, x_hat: jax.Array) -> None:
        """Count the rows whose replacement has the same top token by the logit lens."""
        top = self._lens(windows.tokens, x)
        same = {"sae": top == self._lens(windows.tokens, x_hat), "mean": top == self._mean_token}
        for population, chosen in zip(POPULATIONS, (windows.keep, windows.real), strict=True):
            self._rows[population] += int(chosen.sum())
            for name, equal in same.items():
                self._same_token[population, name] += int(equal[chosen].sum())

    def _lens(self, tokens: np.ndarray, rows: jax.Array) -> np.ndarray:
        """The top token if ``rows`` [S, T, d] went into the final norm and head."""
        last = Site(self._model.spec.n_layers - 1)
        return np.asarray(top_token(patched_logits(self._model, tokens, rows, last)))

    def _effect(self, reference: Reference, rows: jax.Array, windows: Windows) -> np.ndarray:
        """Sums of cross-entropy and KL by window, float64 [2, S], with ``rows`` [S, T, d]."""
        logits = patched_logits(self._model, windows.tokens, rows, self._site)
        both = np.asarray(compare(reference, logits, windows.targets), np.float64)
        sums: np.ndarray = np.where(windows.scored[None], both, 0).sum(axis=2)
        return sums

    def result(self, first_rows: np.ndarray) -> PatchingResult:
        """The means, over the windows that begin at ``first_rows`` [S] of the split."""
        windows, rows = len(first_rows), self._rows["all_rows"]
        by_window = np.concatenate([np.zeros(0, np.int64), *self._positions])[:windows]
        positions = int(by_window.sum())
        count = max(positions, 1)
        ce = self._ce / count
        return PatchingResult(
            model=self._model.id,
            computed=self._model.computed,
            layer=self._site.layer,
            site=self._site.kind,
            windows=windows,
            positions=positions,
            rows=rows,
            masked_rows=rows - self._rows["unmasked"],
            ce=ce,
            patched={
                policy: effects({name: self._sums[policy, name] / count for name in PATCHES}, ce)
                for policy in POLICIES
            },
            logit_lens={
                population: Lens(
                    n, *(self._same_token[population, name] / max(n, 1) for name in ("sae", "mean"))
                )
                for population, n in self._rows.items()
            },
            sae_windows=SAEWindows(
                first_rows,
                by_window,
                {
                    policy: np.concatenate([np.zeros(0), *sums])[:windows]
                    for policy, sums in self._sae_kl.items()
                },
            ),
        )


@partial(jax.jit, static_argnames=("activation", "pre_bias"))
def _reconstruct(
    params: Params, x: jax.Array, activation: Activation, pre_bias: float
) -> jax.Array:
    """x_hat of ``x``, both [S, T, d] float32."""
    rows = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    return reconstruct(params, rows, activation, pre_bias).reshape(x.shape)
