#!/usr/bin/env python3
"""TopK SAEs of other libraries, trained a step at a time by the benches (``peer_process.py``).

Runs in an environment of its own, which has torch and any of the three:

    python -m venv peers && peers/bin/pip install torch eai-sparsify sae-lens
    peers/bin/pip install --no-deps dictionary-learning
    peers/bin/pip install nnsight

Requests are lines of JSON on stdin, and each is answered by a line on stdout. The first line it
prints is the list of libraries that it could load; why another could not be is said on stderr.

    {"make": LIBRARY, "settings": {...}}          a new SAE, see Settings          {}
    {"step": LIBRARY, "rows": N, "d_in": D}       then N x D float32 numbers       {"seconds": S}
    {"save": LIBRARY, "folder": PATH}             the SAE as its library writes it {}

Each library trains as its own trainer does, in float32 with Adam. sparsify's trainer needs a
language model, so that what it does with rows is repeated here. What it costs to bring rows here
is not timed.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import torch

if not torch.cuda.is_available():  # PyPI's torch has Triton, which sparsify would then use on CPUs
    os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")

AUXK = 1 / 32
"""Weight of sparsify's AuxK, which is off by default: that of arXiv:2406.04093."""


@dataclass(frozen=True)
class Settings:
    """What an SAE is trained with."""

    d_in: int
    d_sae: int
    k: int
    batch: int
    """rows of a step, or a few less"""
    lr: float
    """peak rate"""
    steps: int = 0
    """of the run, over which the rate rises and falls; 0: it stays"""
    rise: float = 0.25
    """share of the steps in which the rate rises"""
    fall: float = 0.5
    """share of the steps in which it falls to 0, at the end"""
    idle: int = 0
    """steps without firing after which AuxK takes a feature for dead; 0: AuxK is off"""

    def share(self, step: int) -> float:
        """The rate of step number ``step``, from 0, as a share of the peak."""
        rise, fall = (max(1.0, part * self.steps) for part in (self.rise, self.fall))
        return min(1.0, (step + 1) / rise, (self.steps - step) / fall) if self.steps else 1.0


class Trainer(Protocol):
    """An SAE in training."""

    def step(self, x: torch.Tensor) -> None:
        """Learn from rows [n, d_in]."""

    def save(self, folder: Path) -> None:
        """Write the SAE as its library does."""


class Sparsify:
    """EleutherAI sparsify: SparseCoder in its eager form, and the loop of its Trainer."""

    def __init__(self, settings: Settings) -> None:
        from sparsify import SparseCoder, SparseCoderConfig

        shape = SparseCoderConfig(num_latents=settings.d_sae, k=settings.k)
        self._settings = settings
        self._coder = SparseCoder(settings.d_in, shape, dtype=torch.float32)
        self._optimiser = torch.optim.Adam(self._coder.parameters(), lr=settings.lr)
        schedule = torch.optim.lr_scheduler.LambdaLR
        self._schedule = schedule(self._optimiser, settings.share)
        self._rows_idle = torch.zeros(settings.d_sae, dtype=torch.long)
        self._started = False

    def step(self, x: torch.Tensor) -> None:  # noqa: D102
        coder, idle = self._coder, self._settings.idle
        if not self._started:
            coder.b_dec.data = x.mean(0)
            self._started = True
        coder.set_decoder_norm_to_unit_norm()
        dead = self._rows_idle > idle * self._settings.batch if idle else None
        found = coder(x, dead_mask=dead)
        (found.fvu + AUXK * found.auxk_loss).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        self._optimiser.step()
        self._optimiser.zero_grad()
        self._schedule.step()
        self._rows_idle += len(x)
        self._rows_idle[found.latent_indices.flatten()] = 0

    def save(self, folder: Path) -> None:  # noqa: D102
        self._coder.set_decoder_norm_to_unit_norm()
        self._coder.save_to_disk(folder)


class SAELens:
    """SAELens: TopKTrainingSAE and its SAETrainer."""

    def __init__(self, settings: Settings) -> None:
        from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
        from sae_lens.config import SAETrainerConfig
        from sae_lens.training.sae_trainer import SAETrainer

        shape = TopKTrainingSAEConfig(d_in=settings.d_in, d_sae=settings.d_sae, k=settings.k)
        steps = settings.steps or 10**6
        config = SAETrainerConfig(
            total_training_samples=steps * settings.batch,
            train_batch_size_samples=settings.batch,
            lr=settings.lr,
            lr_end=settings.lr,
            lr_warm_up_steps=int(settings.rise * settings.steps),
            lr_decay_steps=int(settings.fall * settings.steps),
            dead_feature_window=settings.idle or steps,
        )
        self._trainer = SAETrainer(config, TopKTrainingSAE(shape), iter(()))

    def step(self, x: torch.Tensor) -> None:  # noqa: D102
        self._trainer.step(x)
        self._trainer.n_training_steps += 1

    def save(self, folder: Path) -> None:  # noqa: D102
        self._trainer.sae.save_inference_model(folder)


class DictionaryLearning:
    """dictionary_learning: TopKTrainer."""

    def __init__(self, settings: Settings) -> None:
        from dictionary_learning.trainers.top_k import TopKTrainer

        steps = settings.steps
        self._trainer = TopKTrainer(
            steps=steps or 10**6,
            activation_dim=settings.d_in,
            dict_size=settings.d_sae,
            k=settings.k,
            layer=0,
            lm_name="none",
            device="cpu",
            warmup_steps=int(settings.rise * steps),
            decay_start=int((1 - settings.fall) * steps) or None,
            lr=settings.lr,
        )
        if settings.idle:
            self._trainer.dead_feature_threshold = settings.idle * settings.batch
        self._done = 0

    def step(self, x: torch.Tensor) -> None:  # noqa: D102
        self._trainer.update(self._done, x)
        self._done += 1

    def save(self, folder: Path) -> None:  # noqa: D102
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(self._trainer.ae.state_dict(), folder / "ae.pt")
        (folder / "config.json").write_text(
            json.dumps({"trainer": self._trainer.config}), encoding="utf-8"
        )


LIBRARIES: dict[str, tuple[str, Callable[[Settings], Trainer]]] = {
    "sparsify": ("sparsify", Sparsify),
    "sae_lens": ("sae_lens", SAELens),
    "dictionary_learning": ("dictionary_learning.trainers.top_k", DictionaryLearning),
}
"""Libraries by name: the module that must be there, and what trains."""


def loadable() -> list[str]:
    """The libraries that can be loaded here."""
    found = []
    for name, (module, _) in LIBRARIES.items():
        try:
            __import__(module)
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
        else:
            found.append(name)
    return found


def answer(request: dict[str, Any], trainers: dict[str, Trainer], pipe: IO[bytes]) -> Any:
    """What is answered to one request."""
    match request:
        case {"make": name, "settings": settings}:
            torch.manual_seed(0)
            trainers[name] = LIBRARIES[name][1](Settings(**settings))
        case {"step": name, "rows": rows, "d_in": d_in}:
            numbers = bytearray(pipe.read(4 * rows * d_in))
            x = torch.frombuffer(numbers, dtype=torch.float32).view(rows, d_in)
            began = time.perf_counter()
            trainers[name].step(x)
            return {"seconds": time.perf_counter() - began}
        case {"save": name, "folder": folder}:
            trainers[name].save(Path(folder))
    return {}


def main() -> None:
    """Answer until stdin ends."""
    out, sys.stdout = sys.stdout, sys.stderr  # libraries print what they like
    print(json.dumps(loadable()), file=out, flush=True)
    trainers: dict[str, Trainer] = {}
    pipe = sys.stdin.buffer
    while line := pipe.readline():
        print(json.dumps(answer(json.loads(line), trainers, pipe)), file=out, flush=True)


if __name__ == "__main__":
    main()
