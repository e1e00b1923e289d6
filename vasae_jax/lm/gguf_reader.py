"""Typed look-ups in the metadata of a GGUF file."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import Keys
from gguf.quants import dequantize

from vasae_jax.lm.hf_config import LARGEST_HEAD
from vasae_jax.lm.rope import inverse_frequencies
from vasae_jax.utils.errors import UserError

# Tensors and metadata of a GGUF file, read through the ``gguf`` package.


class GgufFile:
    """A GGUF file, memory-mapped; quantised tensors are dequantised when read."""

    def __init__(self, path: Path):
        """Read the metadata and the table of tensors.

        Raises:
            UserError: not a GGUF file, cut short, or one part of a split model.
        """
        self.path = path
        self.files: tuple[Path, ...] = (path,)
        try:
            self._reader = gguf.GGUFReader(path)
        except (ValueError, KeyError, IndexError, OSError) as error:
            raise UserError(f"{path} cannot be read as GGUF ({error}); is it complete?") from error
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        if (self.get(gguf.Keys.Split.LLM_KV_SPLIT_COUNT) or 1) > 1:
            raise UserError(f"{path} is one part of a split GGUF; expected a merged file")

    def where(self, name: str) -> str:
        """The file itself, whatever the tensor."""
        return str(self.path)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Row-major shape of tensor ``name`` (GGUF lists the fastest axis first), or None."""
        tensor = self._tensors.get(name)
        return None if tensor is None else tuple(int(size) for size in tensor.shape[::-1])

    def read(self, name: str) -> np.ndarray:
        """Tensor ``name``, which must exist, as float32.

        Raises:
            UserError: a quantisation that the gguf package cannot undo.
        """
        tensor = self._tensors[name]
        try:
            values = dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as error:
            kind = tensor.tensor_type.name
            raise UserError(
                f"{self.path} holds tensor {name} quantised as {kind}, which cannot be undone "
                "here; expected for example F16, Q8_0 or Q4_K"
            ) from error
        return values.astype(np.float32, copy=False)

    def same(self, first: str, second: str) -> bool:
        """Whether two tensors hold the same bytes."""
        one, two = self._tensors[first], self._tensors[second]
        return one.tensor_type == two.tensor_type and np.array_equal(one.data, two.data)

    def get(self, key: str) -> Any:
        """Metadata value ``key`` (number, string or list), None if absent.

        Raises:
            UserError: the value is corrupt.
        """
        found = self._reader.get_field(key)
        try:
            return None if found is None else found.contents()
        except (ValueError, IndexError) as error:
            raise UserError(f"{self.path} has corrupt metadata {key} ({error})") from error


class Reader:
    """Look-ups under the architecture's prefix; errors name file and key."""

    def __init__(self, file: GgufFile, prefix: str):
        self.file = file
        self.prefix = prefix

    def value(self, key: str, default: Any = None) -> Any:
        """What the file has under ``key``, or ``default``."""
        found = self.file.get(key.format(arch=self.prefix))
        return default if found is None else found

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number above 0."""
        value = self.value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(
                f"{self.file.path} has {key.format(arch=self.prefix)} {value!r}; "
                "expected a whole number above 0"
            )
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number."""
        value = self.value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(
                f"{self.file.path} has {key.format(arch=self.prefix)} {value!r}; expected a number"
            )
        return float(value)

    def has(self, tensor: str) -> bool:
        """Whether the file holds ``tensor``."""
        return self.file.shape(tensor) is not None

    def sizes(self) -> dict[str, Any]:
        """What every family's :class:`~vasae_jax.lm.spec.Spec` reads alike, by field."""
        return {
            "architecture": self.prefix,
            "n_layers": self.count(Keys.LLM.BLOCK_COUNT),
            "d_model": self.count(Keys.LLM.EMBEDDING_LENGTH),
            "n_heads": self.count(Keys.Attention.HEAD_COUNT),
            "d_ff": self.count(Keys.LLM.FEED_FORWARD_LENGTH),
            "vocab_size": self.vocab_size(),
            "context_length": self.count(Keys.LLM.CONTEXT_LENGTH),
        }

    def vocab_size(self) -> int:
        """Rows of the input embedding."""
        shape = self.file.shape("token_embd.weight")
        if shape is None:
            raise UserError(f"{self.file.path} holds no tensor token_embd.weight; expected it")
        return shape[0]

    def tied(self) -> bool:
        """No head of its own, or (older converters of GPT-2) a copy of the embedding."""
        return not self.has("output.weight") or self.file.same("output.weight", "token_embd.weight")

    def rotary(self, turned: int) -> tuple[float, ...]:
        """Angles of the ``turned`` first numbers of a head.

        llama.cpp stores llama3 scaling as a divisor of each frequency, tensor rope_freqs.
        """
        where = str(self.file.path)
        kind = self.value(Keys.Rope.SCALING_TYPE, "none")
        scaling = {
            "rope_type": "default" if kind == "none" else kind,
            "factor": self.value(Keys.Rope.SCALING_FACTOR, 1.0),
        }
        theta = self.number(Keys.Rope.FREQ_BASE, 10000.0)
        frequencies = inverse_frequencies(turned, theta, scaling, where)
        if not self.has("rope_freqs.weight"):
            return frequencies
        divisors = self.file.read("rope_freqs.weight")
        if divisors.shape != (len(frequencies),):
            raise UserError(
                f"{where} holds tensor rope_freqs.weight of shape {divisors.shape}; "
                f"expected ({len(frequencies)},)"
            )
        return tuple(float(value) for value in np.asarray(frequencies, np.float32) / divisors)

    def turned(self, head_dim: int, *, whole: bool) -> int:
        """How many numbers of a head are turned: an even number, or ``whole`` heads."""
        turned = self.count(Keys.Rope.DIMENSION_COUNT, head_dim)
        if turned % 2 or turned > min(head_dim, LARGEST_HEAD) or (whole and turned < head_dim):
            expected = "all" if whole else "an even number, at most all"
            raise UserError(
                f"{self.file.path} rotates {turned} of {head_dim} in a head; expected {expected}"
            )
        return turned
