"""GPT-2 and Llama models run by the Flax classes of transformers 4.

Those classes return the last hidden state after the final norm, so the results of the blocks
are captured instead. The module is built only up to the deepest block needed.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vasae_jax.extract import sources
from vasae_jax.sites import SiteLike, resid_post_layers
from vasae_jax.utils.errors import UserError, first_line


@dataclass(frozen=True)
class _Names:
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


class HfFlaxLM:
    """A model with the surface of :class:`vasae_jax.lm.LM`; weights are loaded on first use.

    Args:
        source: a Hugging Face directory or a hub name.
        dtype: of the computation, ``float32`` or ``bfloat16``.

    Raises:
        UserError: transformers is not older than 5, the model is not a GPT-2 or Llama, or
            it is a GGUF file.
    """

    def __init__(self, source: str, dtype: str = "float32") -> None:
        _check_transformers()
        self._source = sources.locate(source)
        if self._source.gguf:
            raise UserError(f"{source} is GGUF; expected a directory (--backend flax reads GGUF)")
        self._config = sources.causal_config(self._source)
        family = self._config.model_type
        if family not in FAMILIES:
            raise UserError(
                f"{self._source.id} is of family {family}; expected {' or '.join(FAMILIES)} for "
                "--backend hf-flax (tools/extract_torch.py runs any causal model)"
            )
        self._names = FAMILIES[family]
        self._dtype = jnp.dtype(dtype)
        self.computed = f"hf-flax {dtype}"
        self._forwards: dict[tuple[int, ...], Any] = {}
        self.spec = sources.spec_of(self._config)
        self.tokenizer = self._source.tokenizer(self._config, self.spec.vocab_size)
        self.id, self.revision = self._source.id, self._source.revision

    @functools.cached_property
    def source_digest(self) -> str:
        """SHA-256 over the digests of the weight files, in the order of their names."""
        return self._source.digest()

    @functools.cached_property
    def params(self) -> dict[str, Any]:
        """The Flax parameters, loaded on first use; raises UserError if that fails."""
        import transformers

        files = self._source.weight_files()
        try:
            with _lenient():
                model = getattr(transformers, self._names.model).from_pretrained(
                    str(self._source.path), from_pt=files[0].suffix == ".bin"
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
            self._forwards[layers] = _forward(self._names, self._config, layers, self._dtype)
        params = self.params[self._names.base]
        with _lenient():
            rows: jax.Array = self._forwards[layers](params, jnp.asarray(tokens, jnp.int32))
            return rows

    def embedding(self) -> np.ndarray:
        """Input embeddings, float32 [V, d_model]."""
        return _float32(self.params[self._names.base][self._names.embedding]["embedding"])

    def unembedding(self) -> np.ndarray:
        """Output embeddings, float32 [V, d_model]; the input embeddings if tied."""
        if self.spec.tied:
            return self.embedding()
        return np.ascontiguousarray(_float32(self.params["lm_head"]["kernel"]).T)

    def final_norm(self) -> dict[str, Any]:
        """The norm before the head: kind, eps, weight [d_model], bias [d_model] or None."""
        values = self.params[self._names.base][self._names.norm]
        if self.spec.family == "gpt2":
            return {
                "kind": "layernorm",
                "eps": self._config.layer_norm_epsilon,
                "weight": _float32(values["scale"]).tolist(),
                "bias": _float32(values["bias"]).tolist(),
            }
        weight = _float32(values["weight"]).tolist()
        return {"kind": "rmsnorm", "eps": self._config.rms_norm_eps, "weight": weight, "bias": None}


def _forward(names: _Names, config: Any, layers: tuple[int, ...], dtype: Any) -> Any:
    """The jitted forward of the first ``layers[-1] + 1`` blocks: (params, tokens) to their rows."""
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
def _lenient() -> Iterator[None]:
    """JAX's default promotion rules, which those classes were written for."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def _check_transformers() -> None:
    import transformers

    if int(transformers.__version__.split(".")[0]) >= 5:
        raise UserError(
            f"--backend hf-flax found transformers {transformers.__version__}, which has no Flax "
            "classes; expected: pip install 'transformers<5' torch (--backend flax needs neither)"
        )


def _float32(array: Any) -> np.ndarray:
    return np.asarray(array, np.float32)
