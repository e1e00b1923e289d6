"""One pass over a split: what the SAE reconstructs, which features fire, and their names."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from vasae_jax.config import MeshConfig, SAEConfig
from vasae_jax.distributed.mesh import DATA, MODEL, Rules, make_mesh, shardings
from vasae_jax.evaluation.metrics import Alignment, Metrics, NearestAnchors, Sums, compute_metrics
from vasae_jax.sae import decode, encode, reconstruct
from vasae_jax.sae.params import Params

# Programs with room for as many active features as rows have.


FIRST = 256
"""Slots of a row at first, where thresholds decide what fires."""


class Slots:
    """A program for each number of slots that active features need.

    k slots are enough for TopK. Where thresholds decide, any number of features may fire on a
    row: slots begin at FIRST and are doubled when those of some row are full.
    """

    def __init__(
        self,
        make: Callable[[int], Callable[..., Any]],
        values: Callable[[Any], Any],
        k: int,
        thresholds: bool,
    ) -> None:
        """Begin with no program compiled.

        Args:
            make: the program with so many slots.
            values: the activations [B, slots] in what a program gives, largest first.
            k: the most features that may fire on a row.
            thresholds: whether they decide.
        """
        self._make, self._values, self._most = make, values, k
        self._slots = min(k, FIRST) if thresholds else k
        self._programs: dict[int, Callable[..., Any]] = {}

    def __call__(self, *inputs: Any) -> Any:
        """Begin to run the program on ``inputs``."""
        if self._slots not in self._programs:
            self._programs[self._slots] = self._make(self._slots)
        return self._programs[self._slots](*inputs)

    def autotuned(self, result: Any, *inputs: Any) -> Any:
        """``result`` of ``inputs`` in NumPy, run again where its slots were too few."""
        found = jax.device_get(result)
        while not self._whole(self._values(found)):
            found = jax.device_get(self(*inputs))
        return found

    def _whole(self, values: Any) -> bool:
        slots: int = values.shape[1]
        if slots >= self._most or not (values[:, -1] > 0).any():
            return True
        self._slots = max(self._slots, min(2 * slots, self._most))
        return False


Program = Callable[[Params, np.ndarray, np.ndarray], "Measured"]

Observer = Callable[[int, np.ndarray, np.ndarray, np.ndarray], None]
"""Is told of each batch: its first row's place in the split, which rows count (bool [B]), and
the activations [B, k] and features [B, k] of its rows."""


class Rows(Protocol):
    """A batch of rows, as vasae_jax.stream gives them."""

    @property
    def x(self) -> np.ndarray:
        """[B, d_in] rows."""

    @property
    def keep(self) -> np.ndarray:
        """bool [B], False for masked rows (and padding)."""

    @property
    def docs(self) -> np.ndarray:
        """int32 [B], the row's document, -1 for padding."""


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
        return {
            "split": self.split,
            "features": self.features,
            "unmasked": self.unmasked.to_json(),
            "all_rows": self.all_rows.to_json(),
        }

    def table(self) -> str:
        """A readable table, one column for each population."""
        header = f"{self.features} features on the {self.split} split"
        lines: list[tuple[str, ...]] = [(header, "unmasked", "all rows")]
        lines += list(_lines(self.unmasked, self.all_rows))
        width = max(len(line[0]) for line in lines)
        return "\n".join(f"{a:<{width}}  {b:>12}  {c:>12}" for a, b, c in lines)


class Measured(NamedTuple):
    """What the device says of one batch; index 0 is the unmasked rows, 1 all rows."""

    mean: jax.Array
    """[2, d_in]"""
    spread: jax.Array
    """[2], sum of |x - mean|^2"""
    error: jax.Array
    """[2], sum of |x - x_hat|^2"""
    values: jax.Array
    """[B, k]"""
    ids: jax.Array
    """[B, k]"""


def evaluate_rows(
    params: Params | Mapping[str, jax.Array],
    sae: SAEConfig,
    batches: Iterable[Rows],
    nearest: tuple[NearestAnchors, ...],
    *,
    split: str = "heldout",
    observe: Observer | None = None,
    mesh: Mesh | None = None,
    screened: bool = False,
) -> Evaluation:
    """Measure an SAE over a split.

    Sums over a batch are float32 on the device; between batches they are float64 on the host,
    so the figures do not depend on the batch size or the mesh beyond float32 rounding.

    Args:
        params: the SAE's parameters.
        sae: its settings; k and pre_bias are used. Where the parameters have a threshold, k is
            the most features that may fire on a row.
        batches: every row of the split once, the last batch padded.
        nearest: each feature's nearest anchor, the kind that names refer to first.
        split: the split's name, for the result.
        observe: is told what fires, so that no other pass is needed to know it.
        mesh: devices that split the rows (``data``) and the features (``model``), both evenly;
            without it the first device does all.
        screened: find what fires through a bfloat16 product, see :mod:`vasae_jax.sae.screen`.

    Raises:
        UserError: no unmasked rows, rows without variance, or a reconstruction not finite.
    """
    d_sae, d_in = params["W_dec"].shape
    mesh = mesh or make_mesh(MeshConfig(data=1, model=1))
    thresholds = "threshold" in params
    program = Slots(
        lambda slots: measure_program(mesh, slots, sae.pre_bias, thresholds, screened),
        lambda found: found.values,
        sae.k,
        thresholds,
    )
    placed = jax.device_put(params, shardings(mesh, Rules().state(params)))
    unmasked, everything, start = Sums(d_in, d_sae), Sums(d_in, d_sae), 0
    for measured, weights in _measured(program, placed, batches):
        for index, sums in enumerate((unmasked, everything)):
            chosen = weights[index]
            mean, spread, error = (x[index] for x in measured[:3])
            sums.add_rows(int(chosen.sum()), mean, float(spread), float(error))
            sums.add_active(measured.values[chosen], measured.ids[chosen])
        if observe is not None:
            observe(start, weights[0], measured.values, measured.ids)
        start += weights.shape[1]
    norms = np.linalg.norm(np.asarray(params["W_dec"], np.float64), axis=1)
    return Evaluation(
        split=split,
        features=d_sae,
        unmasked=compute_metrics(unmasked, norms, nearest),
        all_rows=compute_metrics(everything, norms, nearest),
    )


def _measured(
    program: Slots, params: Params, batches: Iterable[Rows]
) -> Iterator[tuple[Any, np.ndarray]]:
    """Each batch's Measured, in NumPy, and row masks bool [2, B]; one is read ahead."""
    waiting: tuple[Any, np.ndarray, np.ndarray] | None = None
    for batch in batches:
        real = batch.docs >= 0
        weights = np.stack([batch.keep & real, real])
        result = program(params, batch.x, weights)
        if waiting is not None:
            yield program.autotuned(waiting[0], params, *waiting[1:]), waiting[2]
        waiting = (result, batch.x, weights)
    if waiting is not None:
        yield program.autotuned(waiting[0], params, *waiting[1:]), waiting[2]


@cache
def measure_program(
    mesh: Mesh, k: int, pre_bias: float, thresholds: bool = False, screened: bool = False
) -> Program:
    """The jitted (params, rows [B, d_in], row masks bool [2, B]) -> :class:`Measured`.

    Features are split over ``model`` and rows over ``data``; the k winners of a row and the
    order of equal ones are those of one device. With ``thresholds`` the parameters have some;
    without, the product may be ``screened``.
    """
    specs = param_specs(thresholds)
    out: Any = (P(), P(), P(), P(DATA), P(DATA))
    local = jax.shard_map(
        partial(_measure, k=k, pre_bias=pre_bias, screened=screened),
        mesh=mesh,
        in_specs=(specs, P(DATA), P(None, DATA)),
        out_specs=Measured(*out),
        check_vma=False,
    )
    return jax.jit(local)


PARAMS = {
    name: jax.ShapeDtypeStruct(shape, np.float32)
    for name, shape in {"W_enc": (1, 1), "b_enc": (1,), "W_dec": (1, 1), "b_dec": (1,)}.items()
}


def param_specs(thresholds: bool) -> Any:
    """A PartitionSpec for every parameter of an SAE, of one with thresholds too."""
    return Rules().state({**PARAMS, "threshold": PARAMS["b_enc"]} if thresholds else PARAMS)


def _measure(
    params: Params, x: jax.Array, weights: jax.Array, k: int, pre_bias: float, screened: bool
) -> Measured:
    x = x.astype(jnp.float32)
    values, ids = winners(params, x, k, pre_bias, screened=screened)
    thresholds = "threshold" in params
    x_hat = _all_decoded(params, x, pre_bias) if thresholds else decoded(params, values, ids)
    distance = jnp.sum(jnp.square(x - x_hat), axis=1)
    mean = jnp.stack([_mean(x, weight) for weight in weights])
    spread = [jnp.sum(jnp.square(x - m[None, :]), axis=1) for m in mean]
    sums = (
        jnp.sum(jnp.where(weights, jnp.stack(spread), 0), axis=1),
        jnp.sum(jnp.where(weights, distance[None, :], 0), axis=1),
    )
    spread_sum, error = jax.lax.psum(sums, DATA)
    return Measured(mean, spread_sum, error, values, ids)


def winners(
    params: Params, x: jax.Array, k: int, pre_bias: float, *, screened: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Values and global ids [B, k] of the features that fire, from every device's own k best.

    Offers lie in order of device and within one in order of value, then id, so that equal
    values go to the lowest id.
    """
    own = params["W_dec"].shape[0]
    values, ids = encode(params, x, min(k, own), pre_bias, screened=screened)
    ids = ids + jax.lax.axis_index(MODEL) * own
    offers = jax.lax.all_gather(values, MODEL, axis=1, tiled=True)
    offer_ids = jax.lax.all_gather(ids, MODEL, axis=1, tiled=True)
    best, at = jax.lax.top_k(offers, k)
    return best, jnp.take_along_axis(offer_ids, at, axis=1)


def decoded(params: Params, values: jax.Array, ids: jax.Array) -> jax.Array:
    """x_hat [B, d_in]: each device decodes the winners that are its own."""
    own = params["W_dec"].shape[0]
    first = jax.lax.axis_index(MODEL) * own
    mine = (ids >= first) & (ids < first + own)
    unbiased: Params = {**params, "b_dec": jnp.zeros_like(params["b_dec"])}
    part = decode(
        unbiased,
        jnp.where(mine, values, jnp.zeros_like(values)),
        jnp.clip(ids - first, 0, own - 1),
    )
    whole: jax.Array = jax.lax.psum(part, MODEL)
    return whole + params["b_dec"][None, :]


def _all_decoded(params: Params, x: jax.Array, pre_bias: float) -> jax.Array:
    """x_hat [B, d_in] where thresholds decide: all features are multiplied, without slots."""
    part = reconstruct(params, x, params["W_dec"].shape[0], pre_bias) - params["b_dec"][None, :]
    whole: jax.Array = jax.lax.psum(part, MODEL)
    return whole + params["b_dec"][None, :]


def _mean(x: jax.Array, weight: jax.Array) -> jax.Array:
    """Mean of all devices' rows ``x`` [B, d] where ``weight`` is True; 0 if there is none."""
    count = jnp.sum(weight.astype(jnp.float32))
    total = jnp.sum(jnp.where(weight[:, None], x, 0), axis=0)
    sums: tuple[jax.Array, jax.Array] = jax.lax.psum((total, count), DATA)
    return sums[0] / jnp.maximum(sums[1], 1)


def _lines(left: Metrics, right: Metrics) -> Iterator[tuple[str, ...]]:
    both = (left, right)
    yield ("rows", *(f"{one.rows}" for one in both))
    yield ("variance explained", *(f"{one.variance_explained:.4f}" for one in both))
    yield ("fraction of variance unexplained", *(f"{one.fvu:.4f}" for one in both))
    yield ("features firing on a row (l0)", *(f"{one.l0:.2f}" for one in both))
    yield ("dead: fired on no row", *(f"{one.dead} ({one.dead_fraction:.1%})" for one in both))
    for a, b in zip(left.alignment, right.alignment, strict=True):
        yield f"cosine to {a.anchor}", "", ""
        yield from _alignment_lines(a, b)


def _alignment_lines(a: Alignment, b: Alignment) -> Iterator[tuple[str, ...]]:
    both = (a, b)
    yield ("  firing features aligned (>= 0.8)", *(f"{one.firing_aligned:.1%}" for one in both))
    yield ("  activation mass aligned", *(f"{one.mass_aligned:.1%}" for one in both))
    yield ("  tokens covered", *(f"{one.coverage:.2%}" for one in both))
    yield ("  mean cosine, firing features", *(f"{one.firing_cosine:.3f}" for one in both))
    yield (
        "  dictionary aligned, dead included",
        *(f"{one.dictionary_aligned:.1%}" for one in both),
    )
    yield ("  mean cosine, dictionary", *(f"{one.dictionary_cosine:.3f}" for one in both))
    for name in a.firing_buckets:
        counts = (f"{one.firing_buckets[name]}/{one.dictionary_buckets[name]}" for one in both)
        yield (f"  {name} (firing/dictionary)", *counts)
