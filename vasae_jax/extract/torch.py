"""Any causal language model of transformers, run by PyTorch.

Its blocks and final norm are found by their shape and behaviour, so that a new family needs no
code here. This is the only module that imports torch.
"""

import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from vasae_jax.extract.sources import HfModel
from vasae_jax.lm.gguf_reader import GgufFile
from vasae_jax.lm.lm import check_causal, check_ids
from vasae_jax.lm.weights import BUFFERS
from vasae_jax.sites import Site, SiteLike, as_site, as_sites
from vasae_jax.utils.errors import UserError, first_line
from vasae_jax.utils.sizes import FREE, GROWTH, check_stored

try:
    import torch
    from torch import nn
except ImportError as error:
    raise UserError(
        "torch is not installed; expected: pip install vasae-jax[torch], or --backend flax"
    ) from error

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
NORM_NAMES = (
    "norm", "ln_f", "norm_f", "final_layer_norm", "final_layernorm", "final_norm",
    "layer_norm", "layernorm",
)  # fmt: skip
EPS_NAMES = ("eps", "variance_epsilon", "epsilon")
CAUSAL_TOLERANCES = {"float32": 1e-4, "bfloat16": 2e-2}
"""Of a row's largest value, how far later tokens may move it. In a mixture of experts they change
how many tokens share an expert's product, and so its rounding."""


def find_blocks(model: Any, n_layers: int) -> tuple[str, Any]:
    """The name and the ModuleList of the decoder's blocks.

    This is the outermost ModuleList with as many entries as the model has layers.

    Raises:
        UserError: there is none, or more than one.
    """
    modules = model.named_modules()
    lists = {n: m for n, m in modules if isinstance(m, nn.ModuleList) and len(m) == n_layers}
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    if len(outer) != 1:
        raise UserError(
            f"{type(model).__name__} has {len(outer)} lists of {n_layers} modules"
            f"{': ' if outer else ''}{', '.join(outer)}; expected one, the decoder's blocks"
        )
    return outer[0], lists[outer[0]]


def module_at(blocks: Any, site: Site) -> Any:
    """The module whose output are the rows of ``site``; UserError for a kind without one."""
    if site.kind == "resid_post":
        return blocks[site.layer]
    raise UserError(f"PyTorch has no hook for {site}; expected a site of kind resid_post")


def describe_norm(module: Any, d_model: int) -> dict[str, Any]:
    """A norm over rows of width ``d_model``, as ``vocab/final_norm.json`` describes it.

    The norm is run on random rows and compared with the formulas of both kinds, multiplied by
    its weight or, as in Gemma, by one plus its weight. The weight returned is the factor itself.

    Raises:
        UserError: the norm is neither RMSNorm nor LayerNorm.
    """
    module = copy.deepcopy(module).float().cpu()
    rows = torch.randn(8, d_model, generator=torch.Generator().manual_seed(0)) + 0.5
    eps = float(next((getattr(module, e) for e in EPS_NAMES if hasattr(module, e)), 1e-5))
    weight, bias = (getattr(module, name, None) for name in ("weight", "bias"))
    weight = torch.ones(d_model) if weight is None else weight.detach()
    shift = torch.zeros(d_model) if bias is None else bias.detach()
    with torch.inference_mode():
        expected = module(rows)
        centred = rows - rows.mean(-1, keepdim=True)
        for kind, values in (("rmsnorm", rows), ("layernorm", centred)):
            unit = values * torch.rsqrt(values.square().mean(-1, keepdim=True) + eps)
            for scale in (weight, 1 + weight):
                if torch.allclose(unit * scale + shift, expected, rtol=1e-4, atol=1e-5):
                    stored = None if bias is None else shift.tolist()
                    return {"kind": kind, "eps": eps, "weight": scale.tolist(), "bias": stored}
    raise UserError(f"final norm {type(module).__name__} computes neither RMSNorm nor LayerNorm")


class TorchLM(HfModel):
    """A causal language model with the surface of :class:`vasae_jax.lm.LM`.

    Settings and tokenizer are read at once, the weights when they are first needed.

    Args:
        source: a Hugging Face directory, a .gguf file or a hub name.
        device: torch's name of the device, such as ``cpu`` or ``cuda``.
        dtype: of weights and products, ``float32`` or ``bfloat16``.

    Raises:
        UserError: as :class:`HfModel`, and an unusable device.
    """

    def __init__(self, source: str, device: str = "cpu", dtype: str = "float32") -> None:
        super().__init__(source, f"torch {dtype}")
        self._dtype, self._device = DTYPES[dtype], _device(device)
        self._tolerance: float | None = CAUSAL_TOLERANCES[dtype]
        """None once a batch has been checked."""

    @functools.cached_property
    def model(self) -> Any:
        """The transformers model on its device, loaded on first use.

        Raises:
            UserError: the weights cannot be loaded, or not all of them and no others, or embedding
                and stream differ in width.
        """
        import transformers

        place, options = self.arguments()
        if getattr(self.config.get_text_config(), "attn_logit_softcapping", None):
            # transformers 4 ignores the cap in every other kind of attention.
            options = {**options, "attn_implementation": "eager"}
        load: Any = transformers.AutoModelForCausalLM.from_pretrained
        try:
            self._check_size()
            model, report = load(
                place,
                **options,
                dtype=self._dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are named below
            )
            model = model.to(self._device).eval()
        except UserError:
            raise
        except Exception as error:  # corrupt files, sizes, memory: the library raises many kinds
            raise UserError(
                f"{self.id} cannot be loaded by transformers {transformers.__version__}: "
                f"{first_line(error)}"
            ) from error
        refuse_partial(report, self.id)
        if self.gguf:
            _check_numbers(model, GgufFile(self.path))
        self._check(model)
        return model

    def rows(
        self, tokens: np.ndarray, sites: Sequence[SiteLike], dtype: str
    ) -> Callable[[], np.ndarray]:
        """Start a forward pass; calling the result waits and gives the rows on the host.

        Args:
            tokens: integers [S, T], right-padded.
            sites: whose rows; a number is the residual stream after that block.
            dtype: of the result, ``float32`` or ``bfloat16``; cast on the device.

        Returns:
            A function that gives [len(sites), S, T, d_model].

        Raises:
            UserError: a token id without a row in the embedding, a site that does not exist, or
                (found in the first batch, which runs twice) a model that attends to later tokens.
        """
        rows = self._checked_rows(np.asarray(tokens), as_sites(sites)).to(DTYPES[dtype])
        return lambda: _to_numpy(rows)

    def residuals(self, tokens: np.ndarray, sites: Sequence[SiteLike]) -> np.ndarray:
        """Rows at each of ``sites``, float32 [len(sites), S, T, d_model]."""
        return self.rows(tokens, sites, "float32")()

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """Next-token logits: integers [S, T], right-padded, to float32 [S, T, V]."""
        with torch.inference_mode():
            return _float32(self._forward(tokens).logits)

    def patched(self, tokens: np.ndarray, rows: Any, site: SiteLike) -> np.ndarray:
        """Logits float32 [S, T, V] with ``rows`` [S, T, d_model] in place of those at ``site``.

        Every block runs, since the code around the blocks differs by architecture.
        """
        patch = torch.from_numpy(np.array(rows, np.float32)).to(self._device, self._dtype)

        def replace(module: Any, inputs: Any, output: Any) -> Any:
            return (patch, *output[1:]) if isinstance(output, tuple) else patch

        _, blocks = find_blocks(self.model, self.spec.n_layers)
        handle = module_at(blocks, as_site(site)).register_forward_hook(replace)
        try:
            return self.logits(tokens)
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
        blocks, _ = find_blocks(self.model, self.spec.n_layers)
        siblings = dict(self.model.get_submodule(blocks.rpartition(".")[0]).named_children())
        name = next((name for name in NORM_NAMES if name in siblings), None)
        if name is None:
            return {"kind": "none", "eps": 0.0, "weight": None, "bias": None}
        return describe_norm(siblings[name], self.spec.d_model)

    def _forward(self, tokens: np.ndarray) -> Any:
        check_ids(np.asarray(tokens), self.spec.vocab_size, self.id)
        ids = torch.from_numpy(np.asarray(tokens, np.int64)).to(self._device)
        # Attention is causal, so padding on the right needs no mask.
        return self.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)

    def _checked_rows(self, tokens: np.ndarray, sites: tuple[Site, ...]) -> torch.Tensor:
        """Rows [sites, S, T, d_model]; those of the first batch after a check of causality."""
        if self._tolerance is None:
            return self._rows(tokens, sites)
        rows: torch.Tensor = check_causal(
            lambda batch: self._rows(batch, sites),
            tokens,
            self.spec.vocab_size,
            self.id,
            tolerance=self._tolerance,
            to_host=_float32,
        )
        self._tolerance = None if tokens.shape[1] > 1 else self._tolerance
        return rows

    def _rows(self, tokens: np.ndarray, sites: tuple[Site, ...]) -> torch.Tensor:
        _, blocks = find_blocks(self.model, self.spec.n_layers)
        rows: dict[Site, torch.Tensor] = {}
        handles = [
            module_at(blocks, site).register_forward_hook(_capture(rows, site, len(set(sites))))
            for site in sites
        ]
        try:
            with torch.inference_mode():
                self._forward(tokens)
        except _Complete:
            return torch.stack([rows[site] for site in sites])
        finally:
            for handle in handles:
                handle.remove()
        missing = ", ".join(str(site) for site in sites if site not in rows)
        raise UserError(f"{self.id} did not run {missing}; expected one run of each a forward pass")

    def _check_size(self) -> None:
        """Compare the size of the model, for which transformers makes room, with its files.

        Raises:
            UserError: the settings are of a much larger model.
            ValueError: a file of torch's would grow when it is read.
        """
        import transformers

        make: Any = transformers.AutoModelForCausalLM.from_config
        with torch.device("meta"):  # where arrays have shapes and no memory
            model = make(self.config)
        stated = 4 * sum(array.numel() for array in (*model.parameters(), *model.buffers()))
        files = self.weight_files()
        for file in files:
            if file.suffix == ".bin":
                check_stored(file)
        stored = sum(file.stat().st_size for file in files)
        if stated > max(FREE, GROWTH * stored):
            raise UserError(
                f"{self.id} states a model of {stated:,} bytes in its settings and has weights of "
                f"{stored:,}; expected the settings of these files"
            )

    def _check(self, model: Any) -> None:
        """Check the loaded model against its settings, and record whether it is in fact tied."""
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


def refuse_partial(report: Mapping[str, Any], model: str) -> None:
    """Raise UserError unless the files hold the weights of a model, all of them and no others.

    transformers starts weights that are missing at random, and passes over others.

    Args:
        report: its ``loading_info``. A head that is tied to the embedding is not missing there.
        model: named in the error.
    """
    unexpected = [name for name in report["unexpected_keys"] if not name.endswith(BUFFERS)]
    # transformers 5 adds both shapes to each name, transformers 4 does not.
    shapes = [key if isinstance(key, tuple) else (key,) for key in report["mismatched_keys"]]
    found = {
        "lack": sorted(report["missing_keys"]),
        "hold": sorted(unexpected),
        "misshape": sorted(
            " ".join([name, " instead of ".join(str(tuple(size)) for size in sizes)]).strip()
            for name, *sizes in shapes
        ),
    }
    wrong = [
        f"{verb} {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        for verb, names in found.items()
        if names
    ]
    if wrong or report["error_msgs"]:
        more = [str(message) for message in report["error_msgs"]]
        raise UserError(
            f"{model} cannot be read in full: its files {', '.join(wrong + more)}; expected each "
            "tensor of the model under transformers' name, and no other"
        )


def _check_numbers(model: Any, file: GgufFile) -> None:
    """Raise UserError unless ``model`` has as many numbers as its GGUF file.

    transformers passes over tensors of a file that it does not know, such as rotary factors.
    """
    stored = sum(math.prod(file.shape(name) or ()) for name in file.names())
    taken = sum(parameter.numel() for parameter in model.parameters())
    if stored != taken:
        raise UserError(
            f"{file.path} holds {stored:,} numbers and transformers' model of it has {taken:,}; "
            "expected a file whose tensors are all used, or the model's Hugging Face directory"
        )


class _Complete(Exception):
    """The rows of all sites are there, so no later block needs to run."""


def _capture(rows: dict[Site, Any], site: Site, count: int) -> Callable[..., None]:
    """A hook that stores a module's output under ``site``, and stops after ``count`` sites."""

    def hook(module: Any, inputs: Any, output: Any) -> None:
        rows[site] = output[0] if isinstance(output, tuple) else output
        if len(rows) == count:
            raise _Complete

    return hook


def best_device() -> str:
    """Torch's name of the default device."""
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
