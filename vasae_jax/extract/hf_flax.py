"""GPT-2 and Llama models run by the Flax classes of transformers 4.

Those classes return the last hidden state after the final norm, so the outputs of the blocks
are captured instead. The module is built only up to the deepest block needed.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vasae_jax.extract.sources import HfModel
from vasae_jax.sites import SiteLike, resid_post_layers
from vasae_jax.utils.errors import UserError, first_line


class _Names(NamedTuple):
    """The names of a family's Flax classes and of their parts."""

    model: str
    module: str
    base: str
    embedding: str
    norm: str


FAMILIES = {
    "gpt2": _Names("FlaxGPT2LMHeadModel", "FlaxGPT2Model", "transformer", "wte", "ln_f"),
    "llama": _Names("FlaxLlamaForCausalLM", "FlaxLlamaModel", "model", "embed_tokens", "norm"),
}


class HfFlaxLM(HfModel):
    """A model with the surface of :class:`vasae_jax.lm.LM`; weights are loaded on first use.

    Args:
        source: a Hugging Face directory or a hub name.
        dtype: of the computation, ``float32`` or ``bfloat16``.

    Raises:
        UserError: transformers is not older than 5, the model is not a GPT-2 or Llama, or
            it is a GGUF file.
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
        self._forwards: dict[tuple[int, ...], Any] = {}

    def _read_config(self) -> Any:
        config = super()._read_config()
        if config.model_type not in FAMILIES:
            raise UserError(
                f"{self.id} is of family {config.model_type}; expected {' or '.join(FAMILIES)} for "
                "--backend hf-flax (tools/extract_torch.py runs any causal model)"
            )
        return config

    @functools.cached_property
    def params(self) -> dict[str, Any]:
        """The Flax parameters, loaded on first use; raises UserError if that fails."""
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
        # A tied head is never read from here: FlaxLlama leaves it newly initialised.
        params: dict[str, Any] = model.params
        return params

    def residuals(self, tokens: np.ndarray, sites: Sequence[SiteLike]) -> jax.Array:
        """Rows at each of ``sites`` (ascending): [len(sites), S, T, d_model]."""
        layers = resid_post_layers(sites, self.id)
        if layers not in self._forwards:
            self._forwards[layers] = _forward(self._names, self.config, layers, self._dtype)
        params = self.params[self._names.base]
        with _default_promotion():
            rows: jax.Array = self._forwards[layers](params, jnp.asarray(tokens, jnp.int32))
            return rows

    def embedding(self) -> np.ndarray:
        """Input embeddings, float32 [V, d_model]."""
        table = self.params[self._names.base][self._names.embedding]["embedding"]
        return np.asarray(table, np.float32)

    def unembedding(self) -> np.ndarray:
        """Output embeddings, float32 [V, d_model]; the input embeddings if tied."""
        if self.spec.tied:
            return self.embedding()
        return np.ascontiguousarray(np.asarray(self.params["lm_head"]["kernel"], np.float32).T)

    def final_norm(self) -> dict[str, Any]:
        """The norm before the head: kind, eps, weight [d_model], bias [d_model] or None."""
        norm = self.params[self._names.base][self._names.norm]
        values = {name: np.asarray(array, np.float32).tolist() for name, array in norm.items()}
        if self.spec.family == "gpt2":
            kind, eps, weight = "layernorm", self.config.layer_norm_epsilon, values["scale"]
        else:
            kind, eps, weight = "rmsnorm", self.config.rms_norm_eps, values["weight"]
        return {"kind": kind, "eps": eps, "weight": weight, "bias": values.get("bias")}


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
