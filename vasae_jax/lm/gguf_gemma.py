"""Gemma 2 and Gemma 3 (text) in GGUF metadata.

Some settings are not in the file. llama.cpp knows them by architecture and number of layers,
and so are they here.
"""

from gguf import Keys

from vasae_jax.lm.gguf_reader import Reader
from vasae_jax.lm.rope import inverse_frequencies
from vasae_jax.lm.spec import Spec
from vasae_jax.system.errors import UserError

LARGEST = {"gemma2": 46, "gemma3": 62}
"""Layers of the 27B models, whose scores are scaled by width over heads, not by head size."""
PATTERN, LOCAL_THETA = 6, 10000.0
"""Of Gemma 3: every so-manieth layer is global, and the rotary base of the others."""
LOCAL_BASE = "{arch}.rope.freq_base_swa"
"""Written by newer converters; named in ``gguf.Keys`` from 0.19 on."""


def gemma_spec(reader: Reader) -> Spec:
    """The model that the file describes; UserError for a setting that is not supported."""
    second = reader.prefix == "gemma2"
    sizes = reader.sizes()
    n_layers, d_model, heads = sizes["n_layers"], sizes["d_model"], sizes["n_heads"]
    head_dim = reader.count(Keys.Attention.KEY_LENGTH)
    large = n_layers == LARGEST[reader.prefix]
    window = reader.value(Keys.Attention.SLIDING_WINDOW, 4096 if second else None)
    local = () if second or not window else _local_layers(reader, n_layers)
    return Spec(
        family="gemma",
        **sizes,
        n_kv_heads=reader.count(Keys.Attention.HEAD_COUNT_KV, heads),
        head_dim=head_dim,
        tied=second or reader.tied(),  # llama.cpp reads no head of Gemma 2
        norm_eps=reader.number(Keys.Attention.LAYERNORM_RMS_EPS),
        activation="gelu_pytorch_tanh",
        inverse_frequencies=reader.rotary(reader.turned(head_dim, whole=True)),
        window=reader.count(Keys.Attention.SLIDING_WINDOW, 4096) if window else None,
        qk_norm=not second,
        embed_scale=d_model**0.5,
        score_scale=(max(d_model // heads, 1) if large else head_dim) ** -0.5,
        score_cap=_cap(reader, Keys.LLM.ATTN_LOGIT_SOFTCAPPING, 50.0 if second else 0.0),
        logit_cap=_cap(reader, Keys.LLM.FINAL_LOGIT_SOFTCAPPING, 30.0 if second else 0.0),
        local_frequencies=_local_rotary(reader, head_dim) if local else (),
        local_layers=local,
    )


def _cap(reader: Reader, key: str, default: float) -> float | None:
    """A cap above 0; 0 stands for none."""
    value = reader.number(key, default)
    if value < 0:
        raise UserError(
            f"{reader.file.path} has {key.format(arch=reader.prefix)} {value}; expected 0 or more"
        )
    return value or None


def _local_rotary(reader: Reader, head_dim: int) -> tuple[float, ...]:
    """Angles of local layers, which no scaling changes."""
    theta = reader.number(LOCAL_BASE, LOCAL_THETA)
    where = str(reader.file.path)
    return inverse_frequencies(head_dim, theta, {"rope_type": "default"}, where)


def _local_layers(reader: Reader, n_layers: int) -> tuple[bool, ...]:
    """Which layers are local: a flag for each, or all but every n-th."""
    key = Keys.Attention.SLIDING_WINDOW_PATTERN
    pattern = reader.value(key, PATTERN)
    if not isinstance(pattern, list):
        every = reader.count(key, PATTERN)
        return tuple(bool((layer + 1) % every) for layer in range(n_layers))
    if len(pattern) != n_layers:
        raise UserError(
            f"{reader.file.path} has {key.format(arch=reader.prefix)} of {len(pattern)} layers; "
            f"expected {n_layers}"
        )
    return tuple(bool(local) for local in pattern)
