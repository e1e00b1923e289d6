"""A loaded language model, as the rest of the project sees it."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vasae_jax.distributed.autotune import Fastest, fastest
from vasae_jax.lm import model
from vasae_jax.lm.spec import Spec
from vasae_jax.lm.tokenizer import Tokenizer
from vasae_jax.lm.weights import Checkpoint
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import sha256_bytes, sha256_file

# A language model's two ends: its embeddings, final norm and tokenizer, without its blocks.


class Ends:
    """What a cache holds of a model, read from its files when it is asked for.

    Attributes:
        spec: what the model is made of.
        tokenizer: its tokenizer.
        id: hub name, or the name of the directory or file.
        revision: commit on the hub, None for local files.
    """

    def __init__(
        self, checkpoint: Checkpoint, tokenizer: Tokenizer, id: str, revision: str | None
    ) -> None:
        self.spec: Spec = checkpoint.spec
        self.tokenizer = tokenizer
        self.id = id
        self.revision = revision
        self._checkpoint = checkpoint

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
        files = sorted(self._checkpoint.tensors.files, key=lambda path: path.name)
        return sha256_bytes("".join(sha256_file(path) for path in files).encode())

    def _read(self, key: str) -> np.ndarray:
        return np.array(self._checkpoint.read(key), dtype=np.float32, order="C")


class LM(Ends):
    """A language model on the devices; made by :func:`vasae_jax.lm.load_lm`.

    Attributes:
        computed: how it is run, in words.
        batch_multiple: windows of a batch are split over so many devices.
    """

    packs = True

    def __init__(
        self,
        decoder: model.Decoder,
        checkpoint: Checkpoint,
        tokenizer: Tokenizer,
        id: str,
        revision: str | None,
        dtype: str,
    ):
        super().__init__(checkpoint, tokenizer, id, revision)
        self.computed = f"flax {dtype}"
        self._placement = decoder.placement
        self.batch_multiple = self._placement.parts("batch")
        self._graph, self._weights = nnx.split(decoder)

    def residuals(
        self, tokens: Any, layers: Sequence[int], positions: Any | None = None
    ) -> jax.Array:
        """Residual stream after each of ``layers``; no later block runs.

        Args:
            tokens: integers [S, T], T at most ``spec.context_length``. Attention is causal
                and positions count from 0, so windows padded on the right need no mask.
            layers: 0-based, in any order.
            positions: integers [S, T], the place of each token in its window, 0 where one
                begins, as it does at the first of a row: several windows in a row, of which
                none attends to another. None: each row is one window.

        Returns:
            float32 [len(layers), S, T, d_model].

        Raises:
            UserError: a layer that is not there, a window too long, a token id without a
                row in the embedding, positions that do not fit.
        """
        wanted = tuple(int(layer) for layer in layers)
        self._check_layers(wanted)
        distinct = sorted(set(wanted))
        placed = self._tokens(tokens)
        where = None if positions is None else self._positions(positions, placed.shape)
        kept: jax.Array = model.residuals(
            self._graph, self._weights, placed, np.asarray(distinct, np.int32), where
        )
        if wanted == tuple(distinct):
            return kept
        return kept[np.asarray([distinct.index(layer) for layer in wanted])]

    def logits(self, tokens: Any) -> jax.Array:
        """Next-token logits: integers [S, T] to float32 [S, T, V]; errors as residuals."""
        logits: jax.Array = model.logits(self._graph, self._weights, self._tokens(tokens))
        return logits

    def whole(
        self, tokens: Any, layer: int, places: np.ndarray | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """What :meth:`residuals` gives for ``layer``, [S, T, d_model], and logits, in one pass.

        Logits are those of all positions, [S, T, V], or of one of each window, ``places``
        int [S]: [S, 1, V]. Errors as residuals.
        """
        self._check_layers((layer,))
        found: tuple[jax.Array, jax.Array] = model.whole(
            self._graph, self._weights, self._tokens(tokens), np.int32(layer), places
        )
        return found

    def continue_from(self, resid: Any, layer: int, places: np.ndarray | None = None) -> jax.Array:
        """Logits [S, T, V] if the residual stream after block ``layer`` were ``resid``.

        Args:
            resid: [S, T, d_model]; positions count from 0.
            layer: the block whose output is replaced (0-based).
            places: int [S], the one position of each window whose logits are wanted, for
                [S, 1, V]; None for all.

        Raises:
            UserError: a layer that is not there, a wrong shape, a window too long.
        """
        self._check_layers((layer,))
        shape = tuple(resid.shape)
        if len(shape) != 3 or shape[2] != self.spec.d_model:
            raise UserError(
                f"residual stream has shape {shape}; expected [windows, positions, "
                f"{self.spec.d_model}]"
            )
        self._check_length(shape[1])
        rows, after = jnp.asarray(resid), np.int32(layer)
        logits: jax.Array = model.continue_from(self._graph, self._weights, rows, after, places)
        return logits

    def _check_layers(self, layers: tuple[int, ...]) -> None:
        last = self.spec.n_layers - 1
        wrong = [layer for layer in layers if not 0 <= layer <= last]
        if wrong or not layers:
            found = wrong[0] if wrong else "none"
            raise UserError(f"layer {found} was asked of {self.id}; expected layers 0 to {last}")

    def _check_length(self, length: int) -> None:
        spec = self.spec
        if length > spec.context_length:
            raise UserError(
                f"a window has {length} tokens; expected at most the context length "
                f"{spec.context_length} of {self.id}"
            )
        if spec.window is not None and length > spec.window:
            raise UserError(
                f"a window has {length} tokens; expected at most {spec.window}, the reach of the "
                f"sliding-window attention of {self.id}, which is not supported beyond it"
            )

    def _tokens(self, tokens: Any) -> jax.Array:
        """Check token ids [S, T] on the host and place them over the batch axis."""
        host = np.asarray(tokens)
        if host.ndim != 2 or not np.issubdtype(host.dtype, np.integer) or not host.size:
            raise UserError(
                f"tokens have shape {host.shape} and type {host.dtype}; "
                "expected integers [windows, positions]"
            )
        self._check_length(host.shape[1])
        low, high = int(host.min()), int(host.max())
        if low < 0 or high >= self.spec.vocab_size:
            raise UserError(
                f"token id {high if low >= 0 else low} is outside the vocabulary of {self.id}; "
                f"expected 0 to {self.spec.vocab_size - 1}"
            )
        return self._placement.put(host.astype(np.int32), ("batch", "position"))

    def _positions(self, positions: Any, shape: tuple[int, ...]) -> jax.Array:
        """Check positions [S, T] on the host and place them as the tokens are."""
        host = np.asarray(positions)
        if host.shape != shape or not ((host >= 0) & (host <= np.arange(shape[1]))).all():
            raise UserError(
                f"positions have shape {host.shape} and reach {host.max(initial=0)}; expected "
                f"{shape}, none before the first token of its row"
            )
        return self._placement.put(host.astype(np.int32), ("batch", "position"))


# The type that a language model's products are faster in, on this machine.


ROWS, WIDTH, COLUMNS = 2048, 768, 3072
"""A feed-forward layer's product, of a small model and a usual batch."""
WORTH = 1.25
"""How many times as fast bfloat16 must be: it moves a model's rows by about 0.5% of their length,
and the conversions around a product cost some of what it gains."""


def faster_type() -> str:
    """``bfloat16`` where its products are WORTH times as fast as float32's, else ``float32``."""
    return choose(fastest(f"a product of {ROWS} x {WIDTH} x {COLUMNS}", ways))


def choose(found: Fastest) -> str:
    """The type for these times."""
    seconds = found.seconds
    return "bfloat16" if seconds["bfloat16"] * WORTH <= seconds["float32"] else "float32"


def ways() -> dict[str, "Product"]:
    """The product in both types."""
    return {name: Product(name) for name in ("float32", "bfloat16")}


class Product:
    """A product of ones in one type, summed in float32, whenever it is called."""

    def __init__(self, name: str) -> None:
        self._x, self._W = (jnp.ones((n, WIDTH), jnp.dtype(name)) for n in (ROWS, COLUMNS))
        self._run = jax.jit(
            lambda x, W: jnp.einsum("rd,cd->rc", x, W, preferred_element_type=jnp.float32)
        )

    def __call__(self) -> jax.Array:
        """The product [ROWS, COLUMNS]."""
        found: jax.Array = self._run(self._x, self._W)
        return found
