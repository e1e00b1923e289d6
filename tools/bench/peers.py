#!/usr/bin/env python3
"""A training step of other libraries' plain TopK SAEs, driven by ``tools/bench/step.py --peers``.

Runs in an environment of its own, which has torch and any of the three:

    python -m venv peers && peers/bin/pip install torch eai-sparsify sae-lens
    peers/bin/pip install --no-deps dictionary-learning
    peers/bin/pip install nnsight

It reads one line for each step wanted, the peer's name, and answers with its seconds, so that
peers and our step take turns. The first line it prints is the list of peers it could load;
why another could not be is said on stderr.
Every peer trains float32 on random rows of the same shape with k active features and Adam; what
it costs to make the rows is not timed.
"""

import json
import sys
import time
from collections.abc import Callable

import torch


def main() -> None:
    """Answer until stdin ends."""
    rows, d_in, d_sae, k = map(int, sys.argv[1:5])
    answer, sys.stdout = sys.stdout, sys.stderr  # libraries print what they like
    x = torch.randn(rows, d_in)
    steps: dict[str, Callable[[], None]] = {}
    for name, make in MAKERS.items():
        try:
            steps[name] = make(x, d_sae, k)
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    print(json.dumps(sorted(steps)), file=answer, flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        steps[line.strip()]()
        print(time.perf_counter() - began, file=answer, flush=True)


def sparsify(x: torch.Tensor, d_sae: int, k: int) -> Callable[[], None]:
    """EleutherAI sparsify: SparseCoder, eager."""
    from sparsify import SparseCoder, SparseCoderConfig

    coder = SparseCoder(x.shape[1], SparseCoderConfig(num_latents=d_sae, k=k), dtype=torch.float32)
    optimiser = torch.optim.Adam(coder.parameters(), lr=1e-3)

    def step() -> None:
        optimiser.zero_grad()
        coder(x).fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimiser.step()
        coder.set_decoder_norm_to_unit_norm()

    return step


def sae_lens(x: torch.Tensor, d_sae: int, k: int) -> Callable[[], None]:
    """SAELens: TopKTrainingSAE."""
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.saes.sae import TrainStepInput

    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=x.shape[1], d_sae=d_sae, k=k))
    optimiser = torch.optim.Adam(sae.parameters(), lr=1e-3)

    def step() -> None:
        optimiser.zero_grad()
        step_input = TrainStepInput(
            sae_in=x,
            coefficients={},
            dead_neuron_mask=None,
            n_training_steps=0,
            is_logging_step=False,
        )
        sae.training_forward_pass(step_input).loss.backward()
        optimiser.step()

    return step


def dictionary_learning(x: torch.Tensor, d_sae: int, k: int) -> Callable[[], None]:
    """dictionary_learning: TopKTrainer."""
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        steps=1000,
        activation_dim=x.shape[1],
        dict_size=d_sae,
        k=k,
        layer=0,
        lm_name="none",
        device="cpu",
        warmup_steps=0,
        lr=1e-3,
    )
    count = iter(range(1_000_000))
    return lambda: trainer.update(next(count), x)


MAKERS = {
    "sparsify": sparsify,
    "sae_lens": sae_lens,
    "dictionary_learning": dictionary_learning,
}


if __name__ == "__main__":
    main()
