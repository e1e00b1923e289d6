"""GPT-2 and Llama models run by the Flax classes of transformers 4.

Those classes return the last hidden state after the final norm, so the outputs of the blocks
are captured instead. The module is built only up to the deepest block needed.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vasae_jax.extract.sources import HfModel
from vasae_jax.lm.lm import LMEmbeddings, check_causal, check_ids
from vasae_jax.lm.load import open_directory
from vasae_jax.lm.rope import inverse_frequencies
from vasae_jax.lm.spec import Spec
from vasae_jax.sites import SiteLike, resid_post_layers
from vasae_jax.utils.errors import UserError, first_line


class _Names(NamedTuple):
    """The names of a family's Flax classes and of their base model."""

    model: str
    module: str
    base: str


FAMILIES = {
    "gpt2": _Names("FlaxGPT2LMHeadModel", "FlaxGPT2Model", "transformer"),
    "llama": _Names("FlaxLlamaForCausalLM", "FlaxLlamaModel", "model"),
}


class HfFlaxLM(HfModel):
    """A model with the surface of :class:`vasae_jax.lm.LM`; weights are loaded on first use.

    Only rows come from the Flax classes. Embeddings and norm are those of the files.

    Args:
        source: a Hugging Face directory or a hub name.
        dtype: of the computation, ``float32`` or ``bfloat16``.

    Raises:
        UserError: transformers is not older than 5, the model is not a GPT-2 or Llama, it is a
            GGUF file, or it has a setting or tensor that the Flax classes ignore.
    """

    def __init__(self, source: str, dtype: str = "float32") -> None:
        import transformers

        if int(transformers.__version__.split(".")[0]) >= 5:
            raise UserError(
                f"--backend hf-flax found transformers {transformers.__version__}, which has no "
                "Flax classes; expected: pip install 'transformers<5' torch (--backend flax needs "
                "neither)"
            )
        if source.endswith(".gguf"):
            raise UserError(f"{source} is GGUF; expected a directory (--backend flax reads GGUF)")
        super().__init__(source, f"hf-flax {dtype}")
        self._names = FAMILIES[self.config.model_type]
        self._dtype = jnp.dtype(dtype)
        checkpoint, _ = open_directory(self.path)
        _refuse_ignored(checkpoint.spec, self.id)
        self._files = LMEmbeddings(checkpoint, self.tokenizer, self.id, self.revision)
        self.spec = dataclasses.replace(self.spec, tied=checkpoint.spec.tied)
        self._is_checked = False
        self._forwards: dict[tuple[int, ...], Any] = {}

    def _read_config(self) -> Any:
        config = super()._read_config()
        if config.model_type not in FAMILIES:
            raise UserError(
                f"{self.id} is of family {config.model_type}; expected {' or '.join(FAMILIES)} for "
                "--backend hf-flax (vasae extract --backend torch runs any causal model)"
            )
        return config

    @functools.cached_property
    def params(self) -> dict[str, Any]:
        """The Flax parameters, loaded on first use.

        Raises:
            UserError: they cannot be loaded, or are not those of the files.
        """
        import transformers

        pytorch = self.weight_files()[0].suffix == ".bin"
        try:
            with _default_promotion():
                model = getattr(transformers, self._names.model).from_pretrained(
                    str(self.path), from_pt=pytorch
                )
        except Exception as error:  # corrupt files, sizes, no torch: many kinds
            raise UserError(
                f"{self.id} cannot be loaded by {self._names.model}: {first_line(error)}"
            ) from error
        params: dict[str, Any] = model.params
        self._check_loaded(params[self._names.base])
        return params

    def _check_loaded(self, params: dict[str, Any]) -> None:
        """Raise UserError unless ``params`` are the tensors of the files, every one of them.

        The Flax classes start a parameter at random if they do not find it, and prefer files in
        their own format. The head is not compared, as no row depends on it.
        """
        tensors = self._files.checkpoint.tensors
        for path, values in jax.tree_util.tree_leaves_with_path(params):
            *parts, kind = (key.key for key in path)
            name = ".".join([*parts, "bias" if kind == "bias" else "weight"])
            loaded = np.asarray(values, np.float32)
            shape = tensors.shape(name)
            stored = None if shape is None else np.asarray(tensors.read(name), np.float32)
            if stored is None or not any(np.array_equal(stored, x) for x in (loaded, loaded.T)):
                raise UserError(
                    f"{self._names.model} has not read tensor {name} of {tensors.where(name)}; "
                    "expected names of one kind and no flax_model.msgpack (--backend flax reads "
                    "this directory)"
                )

    def residuals(self, tokens: np.ndarray, sites: Sequence[SiteLike]) -> jax.Array:
        """Rows at each of ``sites`` (ascending): [len(sites), S, T, d_model].

        Raises:
            UserError: a token id without a row in the embedding, a site that does not exist, or
                (found in the first batch, which runs twice) a model that attends to later tokens.
        """
        host, layers = np.asarray(tokens), resid_post_layers(sites, self.id)
        check_ids(host, self.spec.vocab_size, self.id)
        if layers not in self._forwards:
            self._forwards[layers] = _forward(self._names, self.config, layers, self._dtype)
        params = self.params[self._names.base]

        def run(batch: np.ndarray) -> jax.Array:
            with _default_promotion():
                rows: jax.Array = self._forwards[layers](params, jnp.asarray(batch, jnp.int32))
                return rows

        if self._is_checked:
            return run(host)
        rows: jax.Array = check_causal(run, host, self.spec.vocab_size, self.id, to_host=_float32)
        self._is_checked = host.shape[1] > 1
        return rows

    def embedding(self) -> np.ndarray:
        """Input embeddings, float32 [V, d_model]."""
        return self._files.embedding()

    def unembedding(self) -> np.ndarray:
        """Output embeddings, float32 [V, d_model]; the input embeddings if tied."""
        return self._files.unembedding()

    def final_norm(self) -> dict[str, Any]:
        """The norm before the head: kind, eps, weight [d_model], bias [d_model] or None."""
        return self._files.final_norm()


def _refuse_ignored(spec: Spec, model: str) -> None:
    """Raise UserError for settings that the Flax classes of Llama do not look at."""
    if spec.family != "llama":
        return
    plain = inverse_frequencies(spec.head_dim, 10000.0, {}, model)
    ignored = {
        "a rotary base other than 10000 or rotary scaling": spec.inverse_frequencies != plain,
        "a head_dim other than width over heads": spec.head_dim * spec.n_heads != spec.d_model,
        "biases in its MLPs": spec.mlp_bias,
    }
    for setting, is_there in ignored.items():
        if is_there:
            raise UserError(
                f"{model} has {setting}, which the Flax classes of transformers ignore; expected "
                "none for --backend hf-flax (--backend flax has it)"
            )


def _float32(rows: jax.Array) -> np.ndarray:
    return np.asarray(rows, np.float32)


def _forward(names: _Names, config: Any, layers: tuple[int, ...], dtype: Any) -> Any:
    """A jitted (params, tokens) -> rows that runs the first ``layers[-1] + 1`` blocks."""
    import transformers

    shallow = type(config).from_dict({**config.to_dict(), "num_hidden_layers": layers[-1] + 1})
    module = getattr(transformers, names.module).module_class(shallow, dtype=dtype)

    def run(params: Any, tokens: jax.Array) -> jax.Array:
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
        _, state = module.apply(
            {"params": params},
            tokens,
            jnp.ones_like(tokens),
            positions,
            deterministic=True,
            capture_intermediates=lambda part, _: (part.name or "").isdigit(),
        )
        (blocks,) = state["intermediates"].values()
        return jnp.stack([blocks[str(layer)]["__call__"][0][0] for layer in layers])

    return jax.jit(run)


@contextlib.contextmanager
def _default_promotion() -> Iterator[None]:
    """JAX's default promotion rules, which the Flax classes of transformers rely on."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield
