"""Steering: the tokens whose rank rises most when a feature is clamped, for the output score.

After Query Lens (arXiv:2606.07617, section 5.2, and the authors' code). A feature is clamped to a
value alpha: at every unmasked row x of the site, of activation z,

    x + (alpha - z) W_dec[f],

which keeps the SAE's error. alpha is such that the mean KL(model || clamped model) of the next
token is one of TARGETS, up to TOLERANCE more. Ranks are of tokens by logit, 0 the likeliest, and
their means over prefixes; a token's rise is the mean over TARGETS of (rank - clamped rank) / V. The
TOKENS tokens that rise most are S, and the output score of a set T of as many is |S & T| / |S|.

What differs from the paper: its prefixes are 100 sentences' beginnings, on which the model goes on
for 20 sampled tokens, and ranks are of each of these steps. Here the prefixes are the first
PREFIX_TOKENS tokens of PREFIXES held-out windows, evenly spaced, nothing is sampled, and KL and
ranks are of the token after each prefix. First positions and norm outliers are not clamped.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from vasae_jax.activations import activation_of
from vasae_jax.evaluation.patching.measure import Reference, compare, reference_of
from vasae_jax.evaluation.patching.model import Model, WindowTable, patched_logits, rows_and_logits
from vasae_jax.sae import encode
from vasae_jax.training.run import Run
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import sha256_array, sha256_bytes, write_bytes, write_error
from vasae_jax.utils.progress import Progress

TARGETS = (0.25, 0.5)
"""Mean KL (nats) at which a feature is clamped."""
TOLERANCE = 0.1
"""How far above its target the KL may be."""
STEPS = 12
"""Values of alpha that are tried for a target at most; then the last one stands."""
BISECT_AFTER = 5
"""Of these, those that go by the KL being about the square of alpha; later ones halve."""
PREFIXES = 32
PREFIX_TOKENS = 8
TOKENS = 25
"""Tokens of a list: of names, and of those that rise most."""


class Steered(NamedTuple):
    """What clamping one feature does."""

    feature: int
    raised: list[int]
    """The TOKENS tokens that rise most, most first."""
    clamp: list[float]
    """alpha, for each of TARGETS."""
    kl: list[float]
    """The KL that it reaches."""

    @property
    def reached(self) -> bool:
        """Whether every KL is on target."""
        return all(on_target(kl, target) for kl, target in zip(self.kl, TARGETS, strict=True))


class Prefixes(NamedTuple):
    """Beginnings of held-out windows, as the model and the SAE see them."""

    tokens: np.ndarray
    """int32 [P, T]"""
    x: jax.Array
    """[P, T, d], rows at the site"""
    keep: np.ndarray
    """bool [P, T], False for masked rows, which are not clamped"""
    reference: Reference
    """The model's predictions after each prefix, [P, 1, V]"""
    ranks: np.ndarray
    """float64 [V], mean rank of each token"""
    z: np.ndarray
    """float32 [n, P, T], activations of the features that are to be clamped"""

    @classmethod
    def of(cls, run: Run, model: Model, split: str, features: Sequence[int]) -> Self:
        """The prefixes of a split, and what ``features`` do on them.

        Raises:
            UserError: no window is long enough, or the cache is damaged.
        """
        data = run.config.data
        table = WindowTable.of(run.cache, data.input_site, split, data.mask)
        length = min(PREFIX_TOKENS, run.cache.manifest.context_length)
        numbers = table.sample(PREFIXES, length)
        if not len(numbers):
            raise UserError(
                f"no window of split {split} has {length} tokens; expected at least one to clamp "
                "features on"
            )
        windows = table.take(numbers, len(numbers))
        tokens = windows.tokens[:, :length]
        last = np.full(len(tokens), length - 1, np.int32)
        x, logits = rows_and_logits(model, tokens, data.input_site, last)
        return cls(
            tokens,
            x,
            windows.keep[:, :length],
            reference_of(logits),
            mean_ranks(np.asarray(logits)[:, 0]),
            _activations(run, x, features),
        )


def _activations(run: Run, x: jax.Array, features: Sequence[int]) -> np.ndarray:
    """The activations of ``features`` at rows ``x`` [P, T, d]; float32 [n, P, T]."""
    sae = run.config.sae
    rows = jnp.asarray(x, jnp.float32).reshape(-1, x.shape[-1])
    values, ids = (
        np.asarray(part) for part in encode(run.params, rows, activation_of(sae), sae.pre_bias)
    )
    z = [np.where(ids == feature, values, 0).sum(axis=1) for feature in features]
    return np.reshape(z, (-1, *x.shape[:2])).astype(np.float32)


def mean_ranks(logits: np.ndarray) -> np.ndarray:
    """The mean rank of each token over the rows of ``logits`` [P, V]; float64 [V].

    Of equal logits the lower id comes first.
    """
    ranks = np.zeros(logits.shape[1])
    for row in logits:
        ranks[np.argsort(-row, kind="stable")] += np.arange(len(row))
    return ranks / len(logits)


def on_target(kl: float, target: float) -> bool:
    """Whether ``kl`` is ``target`` up to TOLERANCE more."""
    return target <= kl <= target + TOLERANCE


def steer_features(
    run: Run,
    model: Model,
    split: str,
    features: Sequence[int],
    typical: np.ndarray,
    folder: Path,
) -> list[Steered]:
    """Clamp each of ``features``, and find the tokens that rise most.

    Args:
        run: whose features they are.
        model: the language model of the run's cache.
        split: whose windows begin the prefixes.
        features: each once.
        typical: float [n], an activation of each, above 0, at which the search begins.
        folder: where ``steering-ID.jsonl`` is kept, with a line for each feature that is done; ID
            is of the run, rows and model, so that what is there of others is neither used nor
            lost.

    Raises:
        UserError: the cache is damaged, no window is long enough, or the file cannot be written.
    """
    journal = Journal.of(folder, _identity(run, model, split))
    missing = [index for index, feature in enumerate(features) if feature not in journal.done]
    if missing:
        prefixes = Prefixes.of(run, model, split, [features[index] for index in missing])
        done = len(features) - len(missing)
        with Progress(len(features), done=done, unit="clamped features") as progress:
            for count, index in enumerate(missing):
                clamped = _Clamped(run, model, prefixes, count, features[index])
                journal.add(clamped.steered(float(typical[index])))
                progress.update(done + count + 1)
            progress.finish(len(features))
    return [journal.done[feature] for feature in features]


class _Clamped:
    """The model with one feature clamped."""

    def __init__(
        self, run: Run, model: Model, prefixes: Prefixes, index: int, feature: int
    ) -> None:
        self._run, self._model, self._prefixes = run, model, prefixes
        self._feature, self._z = feature, prefixes.z[index]
        self._row = np.asarray(run.params["W_dec"][feature], np.float32)

    def steered(self, start: float) -> Steered:
        found = [find_clamp(self._at, start, target) for target in TARGETS]
        vocab_size = len(self._prefixes.ranks)
        rise = np.mean(
            [
                (self._prefixes.ranks - mean_ranks(np.asarray(logits)[:, 0])) / vocab_size
                for *_, logits in found
            ],
            axis=0,
        )
        raised = np.argsort(-rise, kind="stable")[:TOKENS]
        return Steered(
            self._feature,
            raised.tolist(),
            [value for value, *_ in found],
            [kl for _, kl, _ in found],
        )

    def _at(self, value: float) -> tuple[float, jax.Array]:
        """The mean KL with the feature clamped to ``value``, and the logits [P, 1, V]."""
        prefixes, site = self._prefixes, self._run.config.data.input_site
        change = np.where(prefixes.keep, np.float32(value) - self._z, np.float32(0))
        rows = _moved(prefixes.x, change, self._row)
        last = np.full(len(prefixes.tokens), prefixes.tokens.shape[1] - 1, np.int32)
        logits = patched_logits(self._model, prefixes.tokens, rows, site, last)
        none = np.zeros((len(last), 1), np.int32)
        _, kl = compare(prefixes.reference, logits, none)
        return float(np.asarray(kl, np.float64).mean()), logits


@jax.jit
def _moved(x: jax.Array, change: jax.Array, row: jax.Array) -> jax.Array:
    """``x`` [P, T, d] with ``change`` [P, T] times ``row`` [d] added."""
    return x.astype(jnp.float32) + change[..., None] * row[None, None, :]


def find_clamp(
    kl_at: Callable[[float], tuple[float, Any]], start: float, target: float
) -> tuple[float, float, Any]:
    """A value at which the KL is on ``target``, that KL, and what came with it.

    ``kl_at`` gives both at a value; ``start`` is the first one tried. The KL is about the square of
    the value, which gives the next one, inside the interval that is still open; after BISECT_AFTER
    tries it is the middle. If STEPS tries do not reach the target, the last one stands.
    """
    low, high, value = 0.0, np.inf, start
    for step in range(STEPS):
        kl, came = kl_at(value)
        if on_target(kl, target) or step == STEPS - 1:
            break
        low, high = (value, high) if kl < target else (low, value)
        factor = np.clip(np.sqrt((target + TOLERANCE / 2) / max(kl, 1e-12)), 0.25, 4.0)
        guess = float(value * factor)
        is_stuck = step >= BISECT_AFTER and np.isfinite(high)
        value = (low + high) / 2 if is_stuck or not low < guess < high else guess
    return value, kl, came


def _identity(run: Run, model: Model, split: str) -> dict[str, Any]:
    """Names everything that the tokens that rise depend on."""
    data = run.config.data
    return {
        "weights": [sha256_array(np.asarray(run.params[name])) for name in sorted(run.params)],
        "cache": run.cache.digest,
        "rows": f"{split} {data.input_site} {data.mask}",
        "model": f"{model.source_digest} {model.computed}",
        "settings": [list(TARGETS), TOLERANCE, PREFIXES, PREFIX_TOKENS, TOKENS, STEPS],
    }


class Journal:
    """A file of features that have been clamped: a line that says of what, then one for each.

    A line that was cut by the end of its process is dropped; a damaged file is begun anew.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        """Read what is done; UserError where the file cannot be written."""
        self._path, head = path, json.dumps(identity)
        lines = list(_whole_lines(path))
        found = list(_steered(lines[1:])) if lines[:1] == [head] else []
        self.done = {steered.feature: steered for steered in found}
        text = "".join(line + "\n" for line in (head, *(_line(steered) for steered in found)))
        write_bytes(path, text.encode())

    @classmethod
    def of(cls, folder: Path, identity: dict[str, Any]) -> Self:
        """The file of ``identity`` in ``folder``."""
        name = sha256_bytes(json.dumps(identity).encode())[:12]
        return cls(folder / f"steering-{name}.jsonl", identity)

    def add(self, steered: Steered) -> None:
        """Append a feature, durably enough for a killed process."""
        self.done[steered.feature] = steered
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_line(steered) + "\n")
        except OSError as error:
            raise write_error(self._path, error) from error


def _line(steered: Steered) -> str:
    return json.dumps(steered._asdict())


def _whole_lines(path: Path) -> Iterator[str]:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                yield line[:-1]


def _steered(lines: Sequence[str]) -> Iterator[Steered]:
    """The features of whole lines, up to the first that is not one."""
    with contextlib.suppress(ValueError, TypeError):
        for line in lines:
            yield Steered(**json.loads(line))


def output_score(raised: np.ndarray, listed: np.ndarray) -> np.ndarray:
    """|S & T| / |S| of each feature, float64 [n]; S ``raised`` [n, s], T ``listed`` [n, m].

    -1 in a list is no token.
    """
    both = (raised[:, :, None] == listed[:, None, :]).any(axis=2)
    score: np.ndarray = both.sum(axis=1) / raised.shape[1]
    return score
