"""Small random Hugging Face checkpoints with a tokenizer, and torch's answers."""

import copy
import functools
import json
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

VOCAB = 384
BOS = "<|endoftext|>"
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
"""Scaling under which the pairs of a head of 16 are kept, blended, and slowed."""


@functools.cache
def trained_bpe(add_bos: bool = False) -> str:
    """A byte-level BPE tokenizer of VOCAB tokens, as the text of a tokenizer.json."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[BOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((topics[name] for name in sorted(topics)[:20]), trainer)
    if add_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
        )
    return tokenizer.to_str()


def write_tokenizer(directory: Path, add_bos: bool = False) -> None:
    """tokenizer.json and tokenizer_config.json."""
    (directory / "tokenizer.json").write_text(trained_bpe(add_bos), encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": BOS}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def gpt2_config(**overrides) -> transformers.GPT2Config:
    base = dict(vocab_size=VOCAB, n_positions=64, n_embd=32, n_layer=3, n_head=4)  # noqa: C408
    return transformers.GPT2Config(bos_token_id=0, eos_token_id=0, **{**base, **overrides})


def llama_config(**overrides) -> transformers.LlamaConfig:
    base = dict(  # noqa: C408
        vocab_size=VOCAB,
        max_position_embeddings=64,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=16,
    )
    return transformers.LlamaConfig(bos_token_id=0, eos_token_id=0, **{**base, **overrides})


def random_model(config: transformers.PretrainedConfig, seed: int = 0):
    """A float32 torch model whose every parameter, norms and biases too, is random."""
    generator = torch.Generator().manual_seed(seed)
    # Saving and casting write into the configuration, so each model gets its own.
    config = copy.deepcopy(config)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 2:
                parameter.copy_(noise * 1.5 / parameter.shape[1] ** 0.5)
            elif name.endswith("weight"):
                parameter.copy_(1 + 0.2 * noise)
            else:
                parameter.copy_(0.2 * noise)
    return model.eval()


def save_model(model, directory: Path, shard_size: str = "5GB", add_bos: bool = False) -> Path:
    """Write a complete Hugging Face directory."""
    model.save_pretrained(directory, max_shard_size=shard_size)
    write_tokenizer(directory, add_bos)
    return directory


def torch_residuals(model, tokens: np.ndarray) -> np.ndarray:
    """Every block's output float32 [layers, S, T, d], the last one too, caught by hooks."""
    base = model.base_model
    rows: list[np.ndarray] = []

    def hook(module, inputs, output):
        rows.append((output[0] if isinstance(output, tuple) else output).float().numpy())

    blocks = base.h if hasattr(base, "h") else base.layers
    handles = [block.register_forward_hook(hook) for block in blocks]
    with torch.no_grad():
        base(torch.from_numpy(np.asarray(tokens, np.int64)), use_cache=False)
    for handle in handles:
        handle.remove()
    return np.stack(rows)


def torch_logits(model, tokens: np.ndarray) -> np.ndarray:
    """Logits float32 [S, T, V]."""
    with torch.no_grad():
        return model(torch.from_numpy(np.asarray(tokens, np.int64)), use_cache=False).logits.numpy()


def random_tokens(shape: tuple[int, int], vocab: int = VOCAB, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, vocab, shape, dtype=np.int32)
