"""One pass over a split: what the SAE reconstructs, which features fire, and their names."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from vasae_jax.activations import Activation, TopK, activation_of
from vasae_jax.config import MeshConfig, SAEConfig
from vasae_jax.dictionary.files import WEIGHT_NAMES
from vasae_jax.distributed.mesh import DATA, MODEL, Rules, make_mesh, shardings
from vasae_jax.evaluation.bootstrap import DocumentSums
from vasae_jax.evaluation.metrics import (
    Metrics,
    NearestAnchors,
    Sums,
    TokenTable,
    compute_metrics,
)
from vasae_jax.sae import decode, encode, reconstruct
from vasae_jax.sae.params import Params
from vasae_jax.stream.source import Batch

Line = tuple[str, ...]
"""Of a table: what, then a figure for each population."""
FIRST_MAX_ACTIVE = 256
"""First ``max_active`` of a program whose activation has no bound."""


class GrowingProgram:
    """A program compiled for ``max_active`` active features a row, which grows when a row has more.

    An activation with a bound, such as TopK, is compiled for that bound. Any other begins with
    FIRST_MAX_ACTIVE, which is doubled whenever some row has as many.
    """

    def __init__(
        self,
        make: Callable[[int], Callable[..., Any]],
        values: Callable[[Any], Any],
        activation: Activation,
        d_sae: int,
    ) -> None:
        """Begin with no program compiled.

        Args:
            make: from max_active to the program.
            values: the activations [B, max_active] in what a program gives, largest first.
            activation: which features fire.
            d_sae: number of features.
        """
        self._make, self._values, self._d_sae = make, values, d_sae
        self._max_active = activation.max_active(d_sae) or min(d_sae, FIRST_MAX_ACTIVE)
        self._bounded = activation.max_active(d_sae) is not None
        self._programs: dict[int, Callable[..., Any]] = {}

    def __call__(self, *inputs: Any) -> Any:
        """Begin to run the program on ``inputs``."""
        if self._max_active not in self._programs:
            self._programs[self._max_active] = self._make(self._max_active)
        return self._programs[self._max_active](*inputs)

    def complete(self, result: Any, *inputs: Any) -> Any:
        """``result`` of ``inputs`` in NumPy, run again if a row had too many active features."""
        host = jax.device_get(result)
        while not self._was_enough(self._values(host)):
            host = jax.device_get(self(*inputs))
        return host

    def _was_enough(self, values: Any) -> bool:
        columns: int = values.shape[1]
        if self._bounded or columns >= self._d_sae or not (values[:, -1] > 0).any():
            return True
        self._max_active = max(self._max_active, min(2 * columns, self._d_sae))
        return False


Program = Callable[[Params, np.ndarray, np.ndarray], "Measured"]

Observer = Callable[[int, np.ndarray, np.ndarray, np.ndarray], None]
"""Called with each batch: its first row's place in the split, which rows count (bool [B]), and
the activations [B, K] and features [B, K] of its rows."""


@dataclass(frozen=True)
class Evaluation:
    """Figures over the rows of one split, for two populations of them."""

    split: str
    """The split that was read."""
    features: int
    """d_sae."""
    unmasked: Metrics
    """Without masked rows (first positions and norm outliers): the figures to quote."""
    all_rows: Metrics
    """Every row of the split, masked or not."""

    def to_json(self) -> dict[str, Any]:
        """A JSON value; the populations are named "unmasked" and "all_rows"."""
        populations = {"unmasked": self.unmasked.to_json(), "all_rows": self.all_rows.to_json()}
        return vars(self) | populations

    def table(self) -> str:
        """What is reconstructed and what fires, one column for each population."""
        return self._table(f"{self.features} features on the {self.split} split", _lines)

    def alignment_table(self) -> str:
        """How near features are to their anchors, one column for each population."""
        return self._table("alignment", _alignment_lines)

    def _table(self, head: str, content: Callable[[Metrics, Metrics], Iterable[Line]]) -> str:
        lines = [(head, "unmasked", "all rows"), *content(self.unmasked, self.all_rows)]
        width = max(len(line[0]) for line in lines)
        return "\n".join(f"{a:<{width}}  {b:>12}  {c:>12}" for a, b, c in lines)


class Measured(NamedTuple):
    """Sums over one batch, its errors and what fires on it; index 0 of a sum is the unmasked rows,
    1 all rows."""

    mean: jax.Array
    """[2, d_in]"""
    spread: jax.Array
    """[2], sum of |x - mean|^2"""
    error: jax.Array
    """[B], |x - x_hat|^2 of each row"""
    values: jax.Array
    """[B, K]"""
    ids: jax.Array
    """[B, K]"""


def evaluate_rows(
    params: Params,
    sae: SAEConfig,
    batches: Iterable[Batch],
    nearest: tuple[NearestAnchors, ...],
    *,
    split: str = "heldout",
    observe: Observer | None = None,
    token_means: TokenTable | None = None,
    documents: DocumentSums | None = None,
    mesh: Mesh | None = None,
    screened: bool = False,
) -> Evaluation:
    """Measure an SAE over a split.

    Sums over a batch are float32 on the device; between batches they are float64 on the host,
    so the figures do not depend on the batch size or the mesh beyond float32 rounding.

    Args:
        params: the SAE's parameters.
        sae: its settings, of which the activation and pre_bias are used.
        batches: every row of the split once, the last batch padded.
        nearest: each feature's nearest anchor, one entry a kind of anchor.
        split: the split's name, for the result.
        observe: called with what fires on each batch.
        token_means: the mean row of each row's token, for the variance explained within tokens.
        documents: to which sums over the unmasked rows are added, for intervals.
        mesh: devices that split the rows (``data``) and the features (``model``), both evenly;
            without it the first device does all.
        screened: find what fires through a bfloat16 product, see :mod:`vasae_jax.sae.screen`.

    Raises:
        UserError: no unmasked rows, rows without variance, or a reconstruction not finite.
    """
    d_sae, d_in = params["W_dec"].shape
    mesh = mesh or make_mesh(MeshConfig(data=1, model=1))
    activation = activation_of(sae)
    program = GrowingProgram(
        lambda max_active: measure_program(mesh, activation, max_active, sae.pre_bias, screened),
        lambda measured: measured.values,
        activation,
        d_sae,
    )
    on_mesh = jax.device_put(params, shardings(mesh, Rules().state(params)))
    unmasked, everything, start = Sums(d_in, d_sae), Sums(d_in, d_sae), 0
    for measured, masks, batch in _run_batches(program, on_mesh, batches):
        token_error = None if token_means is None else token_means.errors(start, batch.x)
        for index, sums in enumerate((unmasked, everything)):
            _add(sums, measured, index, masks[index], token_error)
        if observe is not None:
            observe(start, masks[0], measured.values, measured.ids)
        if documents is not None:
            documents.add(batch, masks[0], measured.error, token_error)
        start += masks.shape[1]
    norms = np.linalg.norm(np.asarray(params["W_dec"], np.float64), axis=1)
    return Evaluation(
        split=split,
        features=d_sae,
        unmasked=compute_metrics(unmasked, norms, nearest),
        all_rows=compute_metrics(everything, norms, nearest),
    )


def _add(
    sums: Sums, measured: Any, index: int, chosen: np.ndarray, token_error: np.ndarray | None
) -> None:
    """Add a batch to the sums of one population, the ``index``-th, whose rows are ``chosen``."""
    error = float(measured.error[chosen].sum(dtype=np.float64))
    sums.add_rows(int(chosen.sum()), measured.mean[index], float(measured.spread[index]), error)
    sums.add_active(measured.values[chosen], measured.ids[chosen])
    if token_error is not None:
        sums.add_token_error(float(token_error[chosen].sum(dtype=np.float64)))


def _run_batches(
    program: GrowingProgram, params: Params, batches: Iterable[Batch]
) -> Iterator[tuple[Any, np.ndarray, Batch]]:
    """Each batch with its Measured, in NumPy, and row masks bool [2, B]; one is read ahead."""
    before: tuple[Any, np.ndarray, Batch] | None = None
    for batch in batches:
        real = batch.docs >= 0
        masks = np.stack([batch.keep & real, real])
        result = program(params, batch.x, masks)
        if before is not None:
            yield _completed(program, params, *before)
        before = (result, masks, batch)
    if before is not None:
        yield _completed(program, params, *before)


def _completed(
    program: GrowingProgram, params: Params, result: Any, masks: np.ndarray, batch: Batch
) -> tuple[Any, np.ndarray, Batch]:
    return program.complete(result, params, batch.x, masks), masks, batch


@cache
def measure_program(
    mesh: Mesh, activation: Activation, max_active: int, pre_bias: float, screened: bool = False
) -> Program:
    """The jitted (params, rows [B, d_in], row masks bool [2, B]) -> :class:`Measured`.

    Features are split over ``model`` and rows over ``data``; the active features of a row and the
    order of equal ones are those of one device. TopK's product may be ``screened``.
    """

    def measure(params: Params, x: jax.Array, masks: jax.Array) -> Measured:
        x = x.astype(jnp.float32)
        values, ids = encode(
            params, x, activation, pre_bias, max_active=max_active, screen=screened, axis=MODEL
        )
        if isinstance(activation, TopK):
            x_hat = decode(params, values, ids, MODEL)
        else:  # more features may fire than max_active
            x_hat = reconstruct(params, x, activation, pre_bias, axis=MODEL)
        return _measured(x, x_hat, masks, values, ids)

    out: Any = (P(), P(), P(DATA), P(DATA), P(DATA))
    return over_rows(measure, mesh, activation, (P(None, DATA),), Measured(*out))


def over_rows(
    measure: Callable[..., Any], mesh: Mesh, activation: Activation, specs: tuple[P, ...], out: Any
) -> Callable[..., Any]:
    """``measure`` jitted over a mesh: of parameters, rows [B, d], and arrays split as in ``specs``.

    Parameters are split by feature, rows along ``data``.
    """
    names = (*WEIGHT_NAMES, *activation.extra_params)
    params = Rules().state(dict.fromkeys(names, jax.ShapeDtypeStruct((1,), np.float32)))
    in_specs = (params, P(DATA), *specs)
    return jax.jit(
        jax.shard_map(measure, mesh=mesh, in_specs=in_specs, out_specs=out, check_vma=False)
    )


def _measured(x: jax.Array, x_hat: jax.Array, masks: jax.Array, *active: jax.Array) -> Measured:
    """Sums over all devices' rows, and this device's errors; ``active`` are values and ids."""
    error = jnp.sum(jnp.square(x - x_hat), axis=1)
    mean = jnp.stack([_mean(x, weight) for weight in masks])
    spread = [jnp.sum(jnp.square(x - m[None, :]), axis=1) for m in mean]
    spread_sum = jax.lax.psum(jnp.sum(jnp.where(masks, jnp.stack(spread), 0), axis=1), DATA)
    return Measured(mean, spread_sum, error, *active)


def _mean(x: jax.Array, weight: jax.Array) -> jax.Array:
    """Mean of all devices' rows ``x`` [B, d] where ``weight`` is True; 0 if there is none."""
    count = jnp.sum(weight.astype(jnp.float32))
    total = jnp.sum(jnp.where(weight[:, None], x, 0), axis=0)
    sums: tuple[jax.Array, jax.Array] = jax.lax.psum((total, count), DATA)
    return sums[0] / jnp.maximum(sums[1], 1)


def _lines(left: Metrics, right: Metrics) -> Iterator[Line]:
    both = (left, right)
    yield ("rows", *(f"{f.rows}" for f in both))
    yield ("variance explained", *(f"{f.variance_explained:.4f}" for f in both))
    yield ("fraction of variance unexplained", *(f"{f.fvu:.4f}" for f in both))
    within = (f.variance_explained_within_tokens for f in both)
    yield ("variance explained within tokens", *("-" if v is None else f"{v:.4f}" for v in within))
    yield ("features firing on a row (l0)", *(f"{f.l0:.2f}" for f in both))
    yield ("dead: fired on no row", *(f"{f.dead} ({f.dead_fraction:.1%})" for f in both))


def _alignment_lines(left: Metrics, right: Metrics) -> Iterator[Line]:
    for pair in zip(left.alignment, right.alignment, strict=True):
        yield f"cosine to {pair[0].anchor}", "", ""
        yield ("  firing features aligned (>= 0.8)", *(f"{f.firing_aligned:.1%}" for f in pair))
        yield ("  activation mass aligned", *(f"{f.mass_aligned:.1%}" for f in pair))
        yield ("  tokens covered", *(f"{f.coverage:.2%}" for f in pair))
        yield ("  mean cosine, firing features", *(f"{f.firing_cosine:.3f}" for f in pair))
        aligned = (f"{f.dictionary_aligned:.1%}" for f in pair)
        yield ("  dictionary aligned, dead included", *aligned)
        yield ("  mean cosine, dictionary", *(f"{f.dictionary_cosine:.3f}" for f in pair))
        for name in pair[0].firing_buckets:
            counts = (f"{f.firing_buckets[name]}/{f.dictionary_buckets[name]}" for f in pair)
            yield (f"  {name} (firing/dictionary)", *counts)
