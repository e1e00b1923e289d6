"""A loaded language model, as the rest of the project sees it."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vasae_jax.distributed.autotune import fastest
from vasae_jax.lm import model
from vasae_jax.lm.spec import Spec
from vasae_jax.lm.tokenizer import Tokenizer
from vasae_jax.lm.weights import Checkpoint
from vasae_jax.sites import SiteLike, resid_post_layers
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import sha256_bytes, sha256_file


@dataclass(eq=False)
class LMEmbeddings:
    """A model's embeddings, final norm and tokenizer, read from its files on demand.

    Attributes:
        checkpoint: the files and what they hold.
        spec: sizes and settings of the model.
        tokenizer: the model's tokenizer.
        id: hub name, or the name of the directory or file.
        revision: commit on the hub, None for local files.
    """

    checkpoint: Checkpoint
    tokenizer: Tokenizer
    id: str
    revision: str | None

    def __post_init__(self) -> None:
        self.spec: Spec = self.checkpoint.spec

    def embedding(self) -> np.ndarray:
        """Input embeddings as the files hold them, float32 [V, d_model]."""
        return self._read("embed.weight")

    def unembedding(self) -> np.ndarray:
        """Output embeddings, float32 [V, d_model]; the input embeddings if tied."""
        return self._read("embed.weight" if self.spec.tied else "head.weight")

    def final_norm(self) -> dict[str, Any]:
        """The norm before the head: kind, eps, weight [d_model], bias [d_model] or None."""
        biased = self.spec.norm_kind == "layernorm"
        return {
            "kind": self.spec.norm_kind,
            "eps": self.spec.norm_eps,
            "weight": self._read("final_norm.weight").tolist(),
            "bias": self._read("final_norm.bias").tolist() if biased else None,
        }

    @functools.cached_property
    def source_digest(self) -> str:
        """SHA-256 over the digests of the weight files, in the order of their names."""
        files = sorted(self.checkpoint.tensors.files, key=lambda path: path.name)
        return sha256_bytes("".join(sha256_file(path) for path in files).encode())

    def _read(self, key: str) -> np.ndarray:
        return np.array(self.checkpoint.read(key), dtype=np.float32, order="C")


class LM(LMEmbeddings):
    """A language model on the devices; made by :func:`vasae_jax.lm.load_lm`.

    Attributes:
        computed: backend and dtype, as a cache's manifest states them.
        batch_multiple: the windows of a batch are split over this many devices.
    """

    packs = True

    def __init__(self, files: LMEmbeddings, decoder: model.Decoder, dtype: str):
        super().__init__(files.checkpoint, files.tokenizer, files.id, files.revision)
        self.computed = f"flax {dtype}"
        self._placement = decoder.placement
        self.batch_multiple = self._placement.parts("batch")
        self._graph, self._weights = nnx.split(decoder)
        self._is_checked = False

    def residuals(
        self, tokens: Any, sites: Sequence[SiteLike], positions: Any | None = None
    ) -> jax.Array:
        """Rows at each of ``sites``; no later block runs.

        Args:
            tokens: integers [S, T], T at most ``spec.context_length``. Attention is causal
                and positions count from 0, so windows padded on the right need no mask.
            sites: in any order; a number is the residual stream after that block.
            positions: integers [S, T], each token's position in its window, where one row holds
                several windows, of which none attends to another. A window begins at each 0,
                and so does every row. None: each row is one window.

        Returns:
            float32 [len(sites), S, T, d_model].

        Raises:
            UserError: an unknown site, a window that is too long, a token id without a
                row in the embedding, positions that do not fit, or (found in the first
                batch, which runs twice) a model that attends to later tokens.
        """
        requested = self._layers(sites)
        distinct = sorted(set(requested))
        host = self._check_tokens(tokens)
        if positions is not None:
            positions = self._put_positions(positions, host.shape)
        indices = np.asarray(distinct, np.int32)

        def run(batch: np.ndarray) -> jax.Array:
            rows: jax.Array = model.residuals(
                self._graph, self._weights, self._put(batch), indices, positions
            )
            return rows

        if self._is_checked:
            rows = run(host)
        else:
            rows = check_causal(run, host, self.spec.vocab_size, self.id)
            self._is_checked = host.shape[1] > 1
        if requested == tuple(distinct):
            return rows
        return rows[np.asarray([distinct.index(layer) for layer in requested])]

    def logits(self, tokens: Any) -> jax.Array:
        """Next-token logits: integers [S, T] to float32 [S, T, V]; errors as residuals."""
        logits: jax.Array = model.logits(self._graph, self._weights, self._put_tokens(tokens))
        return logits

    def residual_and_logits(
        self, tokens: Any, site: SiteLike, at: np.ndarray | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Rows at ``site`` [S, T, d_model], and logits, in one pass.

        Logits are those of all positions, [S, T, V], or of one position of each window, ``at``
        int [S]: [S, 1, V]. Errors as residuals.
        """
        (layer,) = self._layers((site,))
        both: tuple[jax.Array, jax.Array] = model.residual_and_logits(
            self._graph, self._weights, self._put_tokens(tokens), np.int32(layer), at
        )
        return both

    def continue_from(self, resid: Any, site: SiteLike, at: np.ndarray | None = None) -> jax.Array:
        """Logits [S, T, V] if the rows at ``site`` were ``resid``.

        Args:
            resid: [S, T, d_model]; positions count from 0.
            site: whose rows are replaced.
            at: int [S], one position of each window, for its logits alone, [S, 1, V].

        Raises:
            UserError: an unknown site, a wrong shape, a window that is too long.
        """
        (layer,) = self._layers((site,))
        shape = tuple(resid.shape)
        if len(shape) != 3 or shape[2] != self.spec.d_model:
            raise UserError(
                f"residual stream has shape {shape}; expected [windows, positions, "
                f"{self.spec.d_model}]"
            )
        self._check_length(shape[1])
        logits: jax.Array = model.continue_from(
            self._graph, self._weights, jnp.asarray(resid), np.int32(layer), at
        )
        return logits

    def _layers(self, sites: Sequence[SiteLike]) -> tuple[int, ...]:
        """The layers of ``sites``, which are all outputs of blocks: model.py has no other hook."""
        layers = resid_post_layers(sites, self.id)
        last = self.spec.n_layers - 1
        wrong = [layer for layer in layers if not 0 <= layer <= last]
        if wrong or not layers:
            name = wrong[0] if wrong else "none"
            raise UserError(f"layer {name} was requested of {self.id}; expected layers 0 to {last}")
        return layers

    def _check_length(self, length: int) -> None:
        longest, reason = self.spec.context_length, "the context length"
        if self.spec.window is not None and self.spec.window < longest:
            longest, reason = self.spec.window, "the sliding window of attention"
        if length > longest:
            raise UserError(
                f"a window has {length} tokens; expected at most {longest}, {reason} of {self.id}"
            )

    def _put_tokens(self, tokens: Any) -> jax.Array:
        return self._put(self._check_tokens(tokens))

    def _put(self, host: np.ndarray) -> jax.Array:
        """Integers [S, T], split over the batch axis."""
        return self._placement.put(host.astype(np.int32), ("batch", "position"))

    def _check_tokens(self, tokens: Any) -> np.ndarray:
        """``tokens`` as an array; UserError unless they are ids [S, T] of the vocabulary."""
        host = np.asarray(tokens)
        if host.ndim != 2 or not np.issubdtype(host.dtype, np.integer) or not host.size:
            raise UserError(
                f"tokens have shape {host.shape} and type {host.dtype}; "
                "expected integers [windows, positions]"
            )
        self._check_length(host.shape[1])
        check_ids(host, self.spec.vocab_size, self.id)
        return host

    def _put_positions(self, positions: Any, shape: tuple[int, ...]) -> jax.Array:
        """Check positions [S, T] on the host and split them as the tokens are."""
        host = np.asarray(positions)
        if host.shape != shape or not ((host >= 0) & (host <= np.arange(shape[1]))).all():
            raise UserError(
                f"positions have shape {host.shape} and reach {host.max(initial=0)}; expected "
                f"{shape}, none before the first token of its row"
            )
        return self._put(host)


def check_ids(tokens: np.ndarray, vocab_size: int, model: str) -> None:
    """Raise UserError unless every token id has a row in the embedding of ``model``."""
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= vocab_size:
        raise UserError(
            f"token id {high if low >= 0 else low} is outside the vocabulary of {model}; "
            f"expected 0 to {vocab_size - 1}"
        )


# Whether this machine multiplies faster in bfloat16.

PROBE_SHAPE = (2048, 768, 3072)
"""Rows, inputs and outputs of a feed-forward layer of a small model, at a usual batch size."""
BFLOAT16_SPEEDUP = 1.25
"""How many times as fast bfloat16 must be to be chosen: it moves a model's rows by about 0.5% of
their length, and the conversions around a product cost some of what it gains."""


def faster_dtype() -> str:
    """``bfloat16`` where its products are BFLOAT16_SPEEDUP times as fast, else ``float32``."""
    rows, into, out = PROBE_SHAPE
    measured = fastest(f"a product of {rows} x {into} x {out}", products)
    return choose_dtype(measured.seconds)


def choose_dtype(seconds: Mapping[str, float]) -> str:
    """The dtype for these times of a product."""
    fast = seconds["bfloat16"] * BFLOAT16_SPEEDUP <= seconds["float32"]
    return "bfloat16" if fast else "float32"


def products() -> dict[str, Callable[[], jax.Array]]:
    """For each dtype a function that multiplies matrices of ones, summing in float32."""
    rows, into, out = PROBE_SHAPE
    multiply = jax.jit(
        lambda x, W: jnp.einsum("rd,cd->rc", x, W, preferred_element_type=jnp.float32)
    )
    return {
        name: functools.partial(multiply, jnp.ones((rows, into), name), jnp.ones((out, into), name))
        for name in ("float32", "bfloat16")
    }


CAUSAL_TOLERANCE = 1e-4
"""Of a row's largest value: the same program ran twice, so only its order of summing may differ."""


def check_causal(
    residuals: Callable[[np.ndarray], Any],
    tokens: np.ndarray,
    vocab_size: int,
    model: str,
    *,
    tolerance: float = CAUSAL_TOLERANCE,
    to_host: Callable[[Any], np.ndarray] = np.asarray,
) -> Any:
    """The rows of ``tokens``, after a check that later tokens do not change them.

    The second half of every window is replaced, and the first window's rows before it compared,
    each with its own largest value: that of a window's first row is often a thousand times others'.

    Args:
        residuals: from tokens [S, T] to rows [layers, S, T, d_model].
        tokens: integers [S, T]; fewer than 2 positions are not checked.
        vocab_size: token ids are below it.
        model: named in the error.
        tolerance: how far a row may move, as a part of its largest value.
        to_host: from rows to NumPy.

    Raises:
        UserError: the model is not causal.
    """
    half = tokens.shape[1] // 2
    if not half or vocab_size < 2:
        return residuals(tokens)
    changed = np.array(tokens)
    changed[:, half:] = (changed[:, half:] + 1) % vocab_size
    # One window of the changed batch is kept, so that two batches of rows are never held at once.
    other = to_host(residuals(changed)[:, :1, :half])
    rows = residuals(tokens)
    first = to_host(rows[:, :1, :half])
    with np.errstate(
        invalid="ignore"
    ):  # rows that are not finite are refused where they are stored
        moved, length = (np.abs(part).max(-1) for part in (first - other, first))
    if (moved > tolerance * length).any():
        share = float((moved / np.maximum(length, np.finfo(np.float32).tiny)).max())
        raise UserError(
            f"{model} attends to later tokens: changing them moves an earlier row by {share:.3g} "
            "of its largest value; expected a causal model"
        )
    return rows
