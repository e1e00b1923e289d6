"""Named sets of settings; ``data`` fills :class:`DataConfig` in each."""

from typing import Any

from vasae_jax.config.settings import (
    AnchorConfig,
    Config,
    DataConfig,
    OptimConfig,
    RunConfig,
    SAEConfig,
)

_PLAIN_ADAM: dict[str, Any] = {
    "encoder_lr_ratio": 1.0,
    "b1": 0.9,
    "b2": 0.999,
    "resample_after": 0.0,
}
"""Adam with its usual averages and one learning rate; no feature starts anew."""


def published(**data: Any) -> Config:
    """The recipe of the public code of arXiv:2606.27941.

    Mean squared error on raw activations, weights from N(0, 0.02) and biases 0 (the default of
    Hugging Face models, of which that code's SAE is one), free decoder norms, constant Adam 1e-3,
    k 32, as many features as tokens, lambda 1e-4, raw embeddings as anchors, batches of 32 x 128
    tokens, all rows kept (a cache has no padding). Nearest anchors are cached and certified as in
    every run; with ``anchor.search_fraction=1`` all are searched in every step, as that code does.
    """
    return Config(
        data=DataConfig(**{"batch": 4096, "skip_positions": 0, "max_norm": 0.0, **data}),
        sae=SAEConfig(
            d_sae=0,
            k=32,
            pre_bias=0.0,
            encoder_init="normal",
            decoder_init="normal",
            b_enc_init=0.0,
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
        optim=OptimConfig(lr=1e-3, warmup=0.0, decay=0.0, loss="mse", **_PLAIN_ADAM),
    )


def default(**data: Any) -> Config:
    """All settings at their defaults."""
    return Config(data=DataConfig(**data))


def named(**data: Any) -> Config:
    """The pull ends later: names hold more, and less of the variance is explained."""
    return Config(data=DataConfig(**data), anchor=AnchorConfig(target_cosine=0.6))


def embedding(**data: Any) -> Config:
    """The decoder is pulled to the token embeddings, as in the paper, but fewer features die.

    The pull ends at cosine 0.82, which leaves a row some freedom to reconstruct;
    docs/frontier.md has the measurements behind that value.
    """
    anchor = AnchorConfig(
        kind="embedding", pulls="decoder", weight=3.5, target_cosine=0.82, start=0.0, warmup=0.0
    )
    return Config(
        data=DataConfig(**data),
        sae=SAEConfig(decoder_init="tokens", b_enc_init=0.0),
        anchor=anchor,
        optim=OptimConfig(lr=4e-3, warmup=0.25, **_PLAIN_ADAM),
    )


def plain(**data: Any) -> Config:
    """No anchors: the baseline that shows what names cost.

    Features start without a threshold, which reconstructs a little better and names worse.
    """
    return Config(data=DataConfig(**data), sae=SAEConfig(method="plain", b_enc_init=0.0))


def quickstart(cache: str, layer: int, out: str) -> Config:
    """4096 features, six passes over about 100 000 rows: a minute of training on two CPU cores."""
    return Config(
        data=DataConfig(cache=cache, layer=layer, batch=1024),
        sae=SAEConfig(d_sae=4096, k=32),
        run=RunConfig(out=out, steps=600, checkpoint_every=200),
    )
