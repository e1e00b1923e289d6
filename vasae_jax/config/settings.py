"""The settings of a training run; the docstring of each field is its help on the command line.

This module loads no JAX. Checks of settings against each other and against a cache are in
:mod:`vasae_jax.training.checks`.
"""

from dataclasses import dataclass, field
from typing import Literal

from vasae_jax.sites import Kind, Site


@dataclass(frozen=True)
class Mask:
    """Which rows are left out of training and of the main measures.

    A row is masked if its position is below ``skip_positions``, or if its norm exceeds
    ``max_norm`` times the median norm of its layer and split; ``max_norm`` 0 means no limit.
    """

    skip_positions: int
    max_norm: float


@dataclass(frozen=True)
class DataConfig:
    """The training data."""

    cache: str = ""
    """Activation cache: a directory or a gs:// or s3:// URL."""
    layer: int = 0
    """Block whose rows are reconstructed; 0 is the first."""
    site: Kind = "resid_post"
    """Where in the block the rows are read; resid_post is the residual stream after it."""
    batch: int = 4096
    """Rows (one per token) in a training step, over all devices."""
    readers: int = 8
    """Parallel readers of the cache; each gives an equal part of a batch. Must divide batch."""
    shuffle_chunks: int = 4
    """Chunks that each reader loads and shuffles together."""
    skip_positions: int = 1
    """Leave out the rows at this many positions at the start of every context window."""
    max_norm: float = 3.0
    """Leave out rows with a norm of more than this many times the median norm; 0 keeps all."""
    seed: int | None = None
    """Seed for the order of the rows; None: run.seed."""

    @property
    def input_site(self) -> Site:
        """The site whose rows are read: ``layer`` and ``site`` together."""
        return Site(self.layer, self.site)

    @property
    def mask(self) -> Mask:
        """The rows to leave out."""
        return Mask(self.skip_positions, self.max_norm)


@dataclass(frozen=True)
class SAEConfig:
    """The sparse autoencoder."""

    method: Literal["plain", "soft", "tied"] = "soft"
    """plain: an SAE without anchors. soft: features are pulled to token anchors. tied: the decoder
    is the token embeddings, and is not trained."""
    d_sae: int = 4096
    """Number of features; 0: as many as the vocabulary has tokens."""
    activation: str = "topk"
    """Which features fire (a name in vasae_jax.activations). topk: the k largest of a row."""
    k: int = 32
    """Number of features active on each row (TopK)."""
    pre_bias: float = 1.0
    """Part of b_dec that is subtracted from the input before encoding: 1 is all of it, 0 nothing
    (as in the paper)."""
    encoder_init: Literal["normal", "uniform", "transpose"] = "transpose"
    """Initial encoder. normal: N(0, 0.02) with b_enc 0. uniform: as torch.nn.Linear. transpose:
    W_enc = W_dec^T."""
    decoder_init: Literal["normal", "uniform", "random", "tokens"] = "random"
    """Initial decoder. normal: N(0, 0.02). uniform: as torch.nn.Linear. random: random unit rows.
    tokens: the anchors of the most frequent tokens of the training rows."""
    b_enc_init: float = 1.0
    """Initial threshold of features: b_enc is lowered by this many standard deviations of a random
    feature's product with the rows (0 in the paper)."""
    b_dec_init: Literal["zero", "uniform", "mean"] = "mean"
    """Initial b_dec. uniform: as torch.nn.Linear. mean: the mean of the training rows."""
    normalize_decoder: bool = True
    """Keep decoder rows at norm 1: gradients are projected, and rows normalized in each step."""
    execution: Literal["auto", "dense", "sparse"] = "auto"
    """How the k active features are multiplied with the decoder; auto: chosen by platform."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the inputs of the encoder's matrix product; weights and sums are float32."""
    screen: Literal["auto", "on", "off"] = "auto"
    """Find candidates for the k features in bfloat16 and compute only those in float32. The same
    features are active; last digits may differ. auto: measured, the faster way on this machine."""


@dataclass(frozen=True)
class AnchorConfig:
    """The pull of each feature towards its nearest token anchor."""

    kind: Literal["embedding", "at", "before", "both"] = "both"
    """A token's anchors. embedding: its embedding, as in the paper. at: the layer's mean row at
    the token. before: the layer's mean row just before the token. both: these two."""
    pulls: Literal["decoder", "encoder"] = "encoder"
    """Which weights are pulled. decoder: a feature then writes its token, as in the paper. encoder:
    it then fires on its token; layer anchors are whitened for this (docs/names.md)."""
    init_fraction: float = 0.5
    """Fraction of the features that start at the most frequent tokens, as detectors with their mean
    rows as decoder rows; the others start as sae.decoder_init says. Only where layer anchors pull
    the encoder."""
    weight: float = 0.2
    """Lambda, the weight of the mean nearest cosine against the reconstruction loss."""
    start: float = 0.3
    """Fraction of the steps that are trained before the pull begins."""
    warmup: float = 0.2
    """Fraction of the steps over which the pull then rises linearly to its full weight."""
    relative: bool = True
    """Multiply lambda by the batch's reconstruction loss, so that one value suits easy and hard
    layers, early and late in a run (off in the paper)."""
    mode: Literal["nearest", "logsumexp", "softmax"] = "nearest"
    """nearest: only the largest cosine counts. logsumexp, softmax: soft means of the ten largest
    cosines (slow)."""
    center: bool = True
    """Subtract the mean embedding from embedding anchors (off in the paper). Layer anchors always
    have the mean of all rows subtracted."""
    feature_weight: Literal["uniform", "sqrt_rate"] = "sqrt_rate"
    """Weight of a feature in the mean cosine: equal, or the root of its recent firing rate."""
    target_cosine: float = 0.5
    """A feature is no longer pulled once its nearest cosine reaches this; at 1 the pull never ends,
    as in the paper. Ignored by the modes logsumexp and softmax."""
    search_fraction: float = 0.25
    """Largest fraction of the features whose nearest anchor is searched again in one step; at 1 all
    are, in every step."""


@dataclass(frozen=True)
class OptimConfig:
    """Adam, its learning rates, features that start anew, and the loss."""

    lr: float | None = None
    """Peak learning rate of Adam (eps 1e-8) for W_dec and b_dec. None: 8e-3 for up to 4096
    features, and for more as one over the root of their number."""
    encoder_lr_ratio: float = 0.25
    """Learning rate of W_enc and b_enc as a fraction of lr: fast encoders let features die, fast
    decoders reconstruct better (1 in the paper)."""
    b1: float = 0.8
    """Decay of Adam's mean of gradients in a step (0.9 in the paper)."""
    b2: float = 0.98
    """Decay of Adam's mean of squared gradients in a step (0.999 in the paper)."""
    resample_after: float = 10.0
    """A feature that has not fired for this many times d_sae rows starts anew, at what the
    reconstruction of some row lacks; 0: none does (as in the paper)."""
    warmup: float = 0.1
    """Fraction of the steps, at the start, over which the learning rate rises linearly from 0."""
    decay: float = 0.5
    """Fraction of the steps, at the end, over which the learning rate falls linearly to 0."""
    loss: Literal["variance", "mse"] = "variance"
    """Reconstruction loss. variance: the fraction of variance unexplained. mse: the mean squared
    error over the row's entries."""


@dataclass(frozen=True)
class MeshConfig:
    """The device mesh; the product of its axes is the number of devices used."""

    data: int | Literal["auto"] = "auto"
    """Devices that split the rows of a batch; auto (or 0): all that the other axes leave."""
    model: int = 1
    """Devices that split the features."""
    member: int = 1
    """Groups of data x model devices that split the runs of a pack; 1 for a single run."""

    @property
    def rows_over(self) -> int:
        """``data`` as a number; 0 for auto."""
        return 0 if self.data == "auto" else self.data


@dataclass(frozen=True)
class RunConfig:
    """Length, output and logging of the run."""

    out: str = ""
    """Run directory. A run that is already there is resumed."""
    steps: int = 1000
    """Number of training steps."""
    seed: int = 0
    """Seed for the initial weights and, unless data.seed is set, for the order of the rows."""
    log_every: int = 50
    """Steps between two lines of metrics."""
    checkpoint_every: int = 500
    """Steps between two checkpoints; there is always one of the last step."""
    keep: int = 2
    """Number of newest checkpoints to keep. With 1, nothing is left if that one is damaged."""
    keep_every: int = 0
    """Also keep the checkpoint of every step that is a multiple of this; 0: of none."""
    tensorboard: bool = False
    """Also write TensorBoard files to OUT/tensorboard: curves, and histograms of alignment and hold
    from held-out rows at every logged step."""
    wandb: str = ""
    """Also log curves and histograms to this Weights & Biases project."""
    overwrite: bool = False
    """Delete an existing run directory instead of resuming it."""
    skip_damaged: bool = False
    """If the last checkpoint is damaged, resume from the one before it instead of refusing."""


@dataclass(frozen=True)
class Config:
    """All settings of one training run."""

    data: DataConfig = field(default_factory=DataConfig)
    sae: SAEConfig = field(default_factory=SAEConfig)
    anchor: AnchorConfig = field(default_factory=AnchorConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    run: RunConfig = field(default_factory=RunConfig)
