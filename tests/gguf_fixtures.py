"""Small random GGUF files, laid out as llama.cpp's converter lays out each family."""

import functools
import json
from pathlib import Path
from pydoc_data.topics import topics

import gguf
import numpy as np
from lm_fixtures import BOS, trained_bpe
from tokenizers import Tokenizer, decoders, models, normalizers, trainers

SPACE = "\u2581"
"""How SentencePiece spells a space."""

ARCHITECTURES = {
    "gpt2": "gpt2",
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gpt_neox": "gptneox",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "stablelm": "stablelm",
}
"""The converter's names by Hugging Face's."""


def write_gguf(
    model, path: Path, pre: str = "gpt-2", quantised: bool = False, pieces=None, **extra
) -> Path:
    """The model as the converter lays it out (F32, or matrices in Q8_0).

    ``pieces`` are tokens, scores and kinds of a SentencePiece tokenizer instead of the byte-level
    one. ``extra`` are calls of the writer, by name, with their argument.
    """
    architecture = ARCHITECTURES[model.config.model_type]
    writer = gguf.GGUFWriter(path, architecture)
    _write_settings(writer, model.config, architecture)
    if pieces is None:
        _write_byte_level(writer, pre)
    else:
        write_pieces(writer, *pieces)
    tensors = gguf_tensors(model, architecture)
    if "rope_freqs" in extra:
        tensors["rope_freqs.weight"] = extra.pop("rope_freqs")
    elif architecture != "gpt2" and _rope(model.config).get("rope_type") == "llama3":
        tensors["rope_freqs.weight"] = llama3_divisors(_rope(model.config), model.config.head_dim)
    for name, value in extra.items():
        getattr(writer, name)(value)
    for name, tensor in tensors.items():
        if quantised and tensor.ndim == 2 and tensor.shape[1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_settings(writer: gguf.GGUFWriter, config, architecture: str) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    if architecture == "gpt2":
        writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_feed_forward_length(config.intermediate_size)
    rope = _rope(config)
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if architecture == "gptneox":
        head = config.hidden_size // config.num_attention_heads
        writer.add_rope_dimension_count(int(rope["partial_rotary_factor"] * head))
        writer.add_parallel_residual(config.use_parallel_residual)
        writer.add_layer_norm_eps(config.layer_norm_eps)
        return
    writer.add_head_count_kv(config.num_key_value_heads)
    if architecture == "stablelm":
        head = config.hidden_size // config.num_attention_heads
        part = rope.get("partial_rotary_factor") or config.partial_rotary_factor
        writer.add_rope_dimension_count(int(part * head))
        writer.add_parallel_residual(config.use_parallel_residual)
        writer.add_layer_norm_eps(config.layer_norm_eps)
        return
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if (head_dim := getattr(config, "head_dim", None)) is not None:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if architecture == "llama":
        heads = config.num_attention_heads
        writer.add_rope_dimension_count(head_dim or config.hidden_size // heads)
    if architecture == "gemma2":  # no rotary base, as every Gemma 2 has the usual one
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    else:
        writer.add_rope_freq_base(rope["rope_theta"])
    if architecture.startswith("gemma"):
        writer.add_sliding_window(config.sliding_window)


def _rope(config) -> dict:
    """Rotary settings of global layers; transformers 5 moved the base into rope_parameters."""
    rope = getattr(config, "rope_parameters", None) or {"rope_theta": config.rope_theta}
    return rope.get("full_attention", rope)


def llama3_divisors(rope: dict, head_dim: int) -> np.ndarray:
    """The tensor that the converter writes for llama3 scaling, by its own formula."""
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    length, divisors = rope["original_max_position_embeddings"], []
    for pair in range(head_dim // 2):
        wavelength = 2 * np.pi * rope["rope_theta"] ** (2 * pair / head_dim)
        if wavelength < length / high:
            divisors.append(1.0)
        elif wavelength > length / low:
            divisors.append(factor)
        else:
            smooth = (length / wavelength - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return np.float32(divisors)


def _write_byte_level(writer: gguf.GGUFWriter, pre: str) -> None:
    description = json.loads(trained_bpe())["model"]
    strings = sorted(description["vocab"], key=description["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(strings)
    writer.add_token_types([3 if string == BOS else 1 for string in strings])
    writer.add_token_merges([" ".join(merge) for merge in description["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)


def write_pieces(
    writer: gguf.GGUFWriter,
    tokens: list[str],
    scores: list[float],
    kinds: list[int],
    prefix: bool = False,
) -> None:
    """A SentencePiece tokenizer; ``prefix`` puts a space before a text."""
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(prefix)


def gguf_tensors(model, architecture: str) -> dict[str, np.ndarray]:
    """The model's tensors by the converter's names, in its layout."""
    config = model.config
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    tensors = {}
    for name, parameter in model.named_parameters():
        array = parameter.detach().numpy()
        if architecture == "gpt2" and ".c_" in name and array.ndim == 2:
            array = array.T
        if architecture == "gptneox" and "query_key_value" in name:
            array = _parted(array, config.num_attention_heads)
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            array = array + 1
        if architecture == "llama" and ".q_proj." in name:
            array = _interleave(array, config.num_attention_heads)
        if architecture == "llama" and ".k_proj." in name:
            array = _interleave(array, config.num_key_value_heads)
        gguf_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        gguf_name = gguf_name or "output.weight"  # the map lacks a head of Gemma 2
        tensors[gguf_name] = np.ascontiguousarray(array)
    return tensors


def _parted(rows: np.ndarray, heads: int) -> np.ndarray:
    """Query, key and value rows of one head after another become all queries, keys, values."""
    size = rows.shape[0] // heads // 3
    return np.concatenate(
        [
            rows[(3 * head + part) * size : (3 * head + part + 1) * size]
            for part in range(3)
            for head in range(heads)
        ]
    )


def _interleave(rows: np.ndarray, heads: int) -> np.ndarray:
    """Pair (i, i + D/2) of each head becomes rows (2i, 2i + 1), as llama.cpp wants it."""
    half = rows.shape[0] // heads // 2
    order = [
        head * 2 * half + part * half + i
        for head in range(heads)
        for i in range(half)
        for part in range(2)
    ]
    return rows[order]


@functools.cache
def small_pieces() -> tuple[list[str], list[float], list[int]]:
    """Tokens, scores and kinds: control, user-defined, bytes, then pieces by falling score."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.decoder = decoders.Replace(SPACE, " ")
    trainer = trainers.BpeTrainer(vocab_size=700, show_progress=False)
    lines = (line for name in sorted(topics)[:20] for line in topics[name].split("\n"))
    tokenizer.train_from_iterator((line[:60] for line in lines), trainer)
    learned = sorted(tokenizer.get_vocab(), key=tokenizer.token_to_id)
    learned.sort(key=lambda piece: len(piece) == 1)  # single characters have the lowest scores
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    special = ["<unk>", "<s>", "</s>"]
    user_defined = ["<|tag|>", "\n\n", SPACE * 3]
    tokens = [*special, *user_defined, *bytes_, *learned]
    scores = [0.0] * (6 + 256) + [-float(rank) for rank in range(len(learned))]
    kinds = (
        [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
        + [gguf.TokenType.USER_DEFINED] * 3
        + [gguf.TokenType.BYTE] * 256
        + [gguf.TokenType.NORMAL] * len(learned)
    )
    return tokens, scores, [int(kind) for kind in kinds]
