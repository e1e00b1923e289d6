"""GPT-NeoX (Pythia) from its ``config.json``."""

from vasae_jax.lm.hf_reader import Reader, rotary
from vasae_jax.lm.spec import Spec
from vasae_jax.system.errors import UserError


def neox_spec(reader: Reader, architecture: str) -> Spec:
    """The model that the file describes; UserError for a setting that is not supported."""
    d_model, heads = reader.count("hidden_size"), reader.count("num_attention_heads")
    head_dim = max(d_model // heads, 1)
    biased = reader.flag("attention_bias", default=True)
    return Spec(
        family="neox",
        architecture=architecture,
        n_layers=reader.count("num_hidden_layers"),
        d_model=d_model,
        n_heads=heads,
        n_kv_heads=heads,
        head_dim=head_dim,
        d_ff=reader.count("intermediate_size"),
        vocab_size=reader.count("vocab_size"),
        context_length=reader.count("max_position_embeddings"),
        tied=reader.flag("tie_word_embeddings", default=False),
        norm_eps=reader.number("layer_norm_eps", default=1e-5),
        activation=str(reader.config.get("hidden_act", "gelu")),
        qkv_bias=biased,
        out_bias=biased,
        mlp_bias=True,
        inverse_frequencies=_rotary(reader, head_dim),
        parallel=reader.flag("use_parallel_residual", default=True),
    )


def _rotary(reader: Reader, head_dim: int) -> tuple[float, ...]:
    """The first part of a head is turned; transformers 4 has base and part under older names."""
    scaling = reader.table("rope_parameters") or reader.table("rope_scaling")
    part = reader.number("rotary_pct", default=0.25)
    part = Reader(scaling, reader.where).number("partial_rotary_factor", default=part)
    if not 0 < part <= 1:
        raise UserError(f"{reader.where} rotates {part} of a head; expected over 0, up to 1")
    theta = reader.number("rotary_emb_base", default=10000.0)
    return rotary(reader, int(head_dim * part), scaling, theta)
