"""Settings that have a name."""

from typing import Any

from vasae_jax.config.settings import (
    AnchorConfig,
    Config,
    DataConfig,
    OptimConfig,
    RunConfig,
    SAEConfig,
)


def published(**data: Any) -> Config:
    """The recipe of arXiv:2606.27941's public code; ``data`` fills :class:`DataConfig`.

    Mean squared error over d on raw activations, weights from N(0, 0.02) and biases 0 (its
    model is a Hugging Face one, which starts every linear layer so), free decoder norms,
    constant Adam 1e-3, k 32, as many features as tokens, lambda 1e-4, raw embeddings as
    anchors, batches of 32 x 128 tokens, every row kept (padding is never in a cache).
    Nearest anchors are cached and certified, as in every run; ``anchor.search_fraction=1``
    searches all of them at every step, as the paper's own code does, at that code's cost.
    """
    return Config(
        data=DataConfig(**{"batch": 4096, "skip_positions": 0, "max_norm": 0.0, **data}),
        sae=SAEConfig(
            d_sae=0,
            k=32,
            pre_bias=0.0,
            encoder_init="normal",
            decoder_init="normal",
            b_dec_init="zero",
            normalize_decoder=False,
        ),
        anchor=AnchorConfig(
            kind="embedding",
            pulls="decoder",
            weight=1e-4,
            relative=False,
            start=0.0,
            warmup=0.0,
            center=False,
            feature_weight="uniform",
            target_cosine=1.0,
        ),
        optim=OptimConfig(lr=1e-3, warmup=0.0, decay=0.0, loss="mse"),
    )


def default(**data: Any) -> Config:
    """The defaults of every setting; ``data`` fills :class:`DataConfig`."""
    return Config(data=DataConfig(**data))


def named(**data: Any) -> Config:
    """For names first: a pull that ends later, for 0.004 to 0.007 more of the variance explained.

    docs/names.md has what it holds, on one seed.
    """
    return Config(data=DataConfig(**data), anchor=AnchorConfig(target_cosine=0.6))


def embedding(**data: Any) -> Config:
    """The decoder pulled to the token embeddings, as the paper has it, with features kept alive.

    The pull ends at cosine 0.82, so that a row keeps part of itself to reconstruct with;
    docs/frontier.md has what it was chosen by.
    """
    anchor = AnchorConfig(
        kind="embedding", pulls="decoder", weight=3.5, target_cosine=0.82, start=0.0, warmup=0.0
    )
    return Config(data=DataConfig(**data), anchor=anchor)


def plain(**data: Any) -> Config:
    """No anchor, all else as ``default``: what names cost is measured against it."""
    return Config(data=DataConfig(**data), sae=SAEConfig(method="plain"))


def quickstart(cache: str, layer: int, out: str) -> Config:
    """A small dictionary that trains in a little over a minute on two CPU cores.

    For a corpus of some 100 000 tokens: 4096 features, six passes over the rows.
    """
    return Config(
        data=DataConfig(cache=cache, layer=layer, batch=1024),
        sae=SAEConfig(d_sae=4096, k=32),
        run=RunConfig(out=out, steps=600, checkpoint_every=200),
    )
