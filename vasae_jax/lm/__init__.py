"""Language models in Flax: GPT-2 and the Llama family, from Hugging Face and GGUF files."""

from vasae_jax.lm.lm import LM as LM
from vasae_jax.lm.load import load_lm as load_lm
