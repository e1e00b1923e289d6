"""Any Hugging Face causal language model, run by PyTorch. The only module that imports torch."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from vasae_jax.extract import sources
from vasae_jax.extract.torch_parts import find_blocks, find_final_norm
from vasae_jax.system.errors import UserError, first_line

try:
    import torch
except ImportError as error:
    raise UserError(
        "torch is not installed; expected: pip install vasae-jax[torch], or tools/extract_flax.py"
    ) from error

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class TorchLM:
    """A causal language model with the surface of :class:`vasae_jax.lm.LM`.

    Settings and tokenizer are read at once, the weights when they are first needed.

    Args:
        source: a Hugging Face directory, a .gguf file or a hub name.
        device: torch's name of the device, such as ``cpu`` or ``cuda``.
        dtype: of weights and products, ``float32`` or ``bfloat16``.

    Attributes:
        spec: the model's sizes.
        tokenizer: its tokenizer.
        id: hub name, or the name of the directory or file.
        revision: commit on the hub, None for local files.

    Raises:
        UserError: no such model, one that is not a causal language model, an unusable
            tokenizer or device.
    """

    def __init__(self, source: str, device: str = "cpu", dtype: str = "float32") -> None:
        self._source = sources.locate(source)
        config = sources.causal_config(self._source)
        self.spec = sources.spec_of(config)
        self._softcapped = bool(getattr(config.get_text_config(), "attn_logit_softcapping", None))
        self.tokenizer = self._source.tokenizer(config, self.spec.vocab_size)
        self.id, self.revision = self._source.id, self._source.revision
        self._dtype = DTYPES[dtype]
        self.computed = f"torch {dtype}"
        self._device = _device(device)

    @functools.cached_property
    def source_digest(self) -> str:
        """SHA-256 over the digests of the weight files, in the order of their names."""
        return self._source.digest()

    @functools.cached_property
    def model(self) -> Any:
        """The transformers model on its device, loaded on first use.

        Raises:
            UserError: the weights cannot be loaded, or embedding and stream differ in width.
        """
        import transformers

        place, options = self._source.arguments()
        if self._softcapped:
            # transformers 4 leaves the cap out of every other kind of attention.
            options = {**options, "attn_implementation": "eager"}
        try:
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                place, **options, dtype=self._dtype
            )
            model = model.to(self._device).eval()
        except Exception as error:  # corrupt files, sizes, memory: the library raises many kinds
            raise UserError(
                f"{self.id} cannot be loaded by transformers {transformers.__version__}: "
                f"{first_line(error)}"
            ) from error
        self._settle(model)
        return model

    def rows(
        self, tokens: np.ndarray, layers: Sequence[int], dtype: str
    ) -> Callable[[], np.ndarray]:
        """Start a forward pass; calling the result waits and gives the rows on the host.

        Args:
            tokens: integers [S, T], right-padded.
            layers: 0-based, ascending.
            dtype: of the result, ``float32`` or ``bfloat16``; cast on the device.

        Returns:
            A function that gives [len(layers), S, T, d_model].
        """
        wanted = self._residuals(tokens, layers).to(DTYPES[dtype])
        return lambda: _to_numpy(wanted)

    def residuals(self, tokens: np.ndarray, layers: Sequence[int]) -> np.ndarray:
        """Residual stream after each of ``layers``, float32 [len(layers), S, T, d_model]."""
        return self.rows(tokens, layers, "float32")()

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """Next-token logits: integers [S, T], right-padded, to float32 [S, T, V]."""
        return self._logits(tokens)

    def patched(self, tokens: np.ndarray, rows: Any, layer: int) -> np.ndarray:
        """Logits float32 [S, T, V] if block ``layer`` put out ``rows`` [S, T, d_model].

        Every block runs, since what surrounds them differs by architecture.
        """
        wanted = torch.from_numpy(np.array(rows, np.float32)).to(self._device, self._dtype)

        def replace(module: Any, inputs: Any, output: Any) -> Any:
            return (wanted, *output[1:]) if isinstance(output, tuple) else wanted

        _, blocks = find_blocks(self.model, self.spec.n_layers)
        handle = blocks[layer].register_forward_hook(replace)
        try:
            return self._logits(tokens)
        finally:
            handle.remove()

    def embedding(self) -> np.ndarray:
        """Input embeddings, float32 [V, d_model]."""
        return _float32(self.model.get_input_embeddings().weight)

    def unembedding(self) -> np.ndarray:
        """Output embeddings, float32 [V, d_model]; the input embeddings if tied."""
        return _float32(self.model.get_output_embeddings().weight)

    def final_norm(self) -> dict[str, Any]:
        """The norm before the head: kind, eps, weight [d_model], bias [d_model] or None."""
        name, _ = find_blocks(self.model, self.spec.n_layers)
        return find_final_norm(self.model, name, self.spec.d_model)

    def _logits(self, tokens: np.ndarray) -> np.ndarray:
        ids = torch.from_numpy(np.asarray(tokens, np.int64)).to(self._device)
        with torch.inference_mode():
            # Causal attention never looks right, so padding there needs no mask.
            mask = torch.ones_like(ids)
            found = self.model(input_ids=ids, attention_mask=mask, use_cache=False)
            return _float32(found.logits)

    def _residuals(self, tokens: np.ndarray, layers: Sequence[int]) -> torch.Tensor:
        _, blocks = find_blocks(self.model, self.spec.n_layers)
        kept: dict[int, torch.Tensor] = {}
        handles = [
            blocks[layer].register_forward_hook(_keep(kept, layer, layer == max(layers)))
            for layer in layers
        ]
        ids = torch.from_numpy(np.asarray(tokens, np.int64)).to(self._device)
        try:
            with torch.inference_mode():
                # Causal attention never looks right, so padding there needs no mask.
                self.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        except _Deepest:
            return torch.stack([kept[layer] for layer in layers])
        finally:
            for handle in handles:
                handle.remove()
        raise UserError(f"{self.id} did not run block {max(layers)}; expected one run a forward")

    def _settle(self, model: Any) -> None:
        """Check the loaded model against its settings, and note whether it is really tied."""
        embed, head = model.get_input_embeddings(), model.get_output_embeddings()
        expected = (self.spec.vocab_size, self.spec.d_model)
        for name, part in (("input", embed), ("output", head)):
            shape = tuple(part.weight.shape) if part is not None else None
            if shape != expected:
                raise UserError(
                    f"{self.id} has {name} embeddings of shape {shape}; expected {expected}, "
                    "so that a residual row and a token's row can be compared"
                )
        tied = head.weight.data_ptr() == embed.weight.data_ptr()
        self.spec = dataclasses.replace(self.spec, tied=tied)
        find_blocks(model, self.spec.n_layers)


class _Deepest(Exception):
    """The deepest wanted block has run; nothing after it is needed."""


def _keep(kept: dict[int, Any], layer: int, last: bool) -> Callable[..., None]:
    def hook(module: Any, inputs: Any, output: Any) -> None:
        kept[layer] = output[0] if isinstance(output, tuple) else output
        if last:
            raise _Deepest

    return hook


def best_device() -> str:
    """Torch's name of the device to use where none was asked for."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device {name!r} cannot be used: {first_line(error)}; expected cpu or cuda"
        ) from error
    return device


def _to_numpy(tensor: torch.Tensor) -> np.ndarray:
    host = tensor.cpu()
    if host.dtype == torch.bfloat16:
        return host.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return host.numpy()


def _float32(tensor: torch.Tensor) -> np.ndarray:
    return _to_numpy(tensor.detach().float().contiguous())
