"""What a training run is: frozen, typed settings, each field explained with its unit.

No JAX here, so that a mistake is found before a device is touched. Cross-checks against
a cache live in :mod:`vasae_jax.training.checks`.
"""

from dataclasses import dataclass, field
from typing import Literal

from vasae_jax.sites import Kind, Site


@dataclass(frozen=True)
class Mask:
    """Which rows do not count.

    A row is masked if its position is below ``skip_positions``, or if its norm exceeds
    ``max_norm`` times the median norm of its layer and split (0: no row is too long).
    """

    skip_positions: int
    max_norm: float


@dataclass(frozen=True)
class DataConfig:
    """Which rows are trained on."""

    cache: str = ""
    """Activation cache: a directory or a gs:// or s3:// URL."""
    layer: int = 0
    """Block whose rows are reconstructed (0 is the first)."""
    site: Kind = "resid_post"
    """Where in the block the rows are read; resid_post is the residual stream after it."""
    batch: int = 4096
    """Rows (tokens) per step, over all devices."""
    readers: int = 8
    """Independent readers of the cache; batches interleave one part from each. Divides batch."""
    shuffle_chunks: int = 4
    """Chunks that a reader reads together and shuffles as one (chunks)."""
    skip_positions: int = 1
    """Rows at the first this-many positions of a context are masked (positions)."""
    max_norm: float = 3.0
    """Rows whose norm exceeds this many times the median norm are masked; 0 keeps all. Where
    they start differs by layer: see docs/frontier.md."""
    seed: int | None = None
    """Seed of the order of the rows; None takes run.seed."""

    @property
    def input_site(self) -> Site:
        """The site whose rows are read: ``layer`` and ``site`` together."""
        return Site(self.layer, self.site)

    @property
    def mask(self) -> Mask:
        """Which rows do not count."""
        return Mask(self.skip_positions, self.max_norm)


@dataclass(frozen=True)
class SAEConfig:
    """The sparse autoencoder."""

    method: Literal["plain", "soft", "tied"] = "soft"
    """plain: no anchor; soft: anchored to tokens; tied: decoder frozen to the embeddings."""
    d_sae: int = 4096
    """Features in the dictionary; 0 means as many as the vocabulary has tokens."""
    activation: str = "topk"
    """Which features fire (a name in vasae_jax.activations). topk: the k largest of a row."""
    k: int = 32
    """Features that may fire on one row."""
    pre_bias: float = 1.0
    """Share of b_dec taken from the input before encoding (published recipe: 0)."""
    encoder_init: Literal["normal", "uniform", "transpose"] = "transpose"
    """normal: N(0, 0.02), b_enc 0; uniform: as torch.nn.Linear; transpose: W_enc = W_dec^T."""
    decoder_init: Literal["normal", "uniform", "random", "tokens"] = "tokens"
    """normal: N(0, 0.02); uniform: as torch.nn.Linear; random: random unit rows; tokens: the
    anchors of the tokens that occur most often in the training rows."""
    b_dec_init: Literal["zero", "uniform", "mean"] = "mean"
    """b_dec at the start. uniform: as torch.nn.Linear; mean: mean of the training rows."""
    normalize_decoder: bool = True
    """Keep decoder rows at norm 1 (gradient projected, rows renormalised each step)."""
    execution: Literal["auto", "dense", "sparse"] = "auto"
    """How the k active features are multiplied; auto chooses by platform and logs it."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Input type of the encoder product; weights and accumulation stay float32."""
    screen: Literal["auto", "on", "off"] = "auto"
    """Whether candidates for the k are looked for in bfloat16 and then measured in float32 (sparse
    execution in float32). The same features fire; the last digits may differ. auto measures which
    is faster on this machine, and the run's config.json has what it found."""


@dataclass(frozen=True)
class AnchorConfig:
    """The pull of features towards their nearest anchor."""

    kind: Literal["embedding", "at", "before", "both"] = "both"
    """What anchors are. embedding: the model's token embeddings (published recipe). Or where the
    layer itself puts each token (docs/anchors.md): at, the mean of its rows; before, the mean
    of the rows before it; both."""
    pulls: Literal["decoder", "encoder"] = "encoder"
    """Whose rows are pulled: the decoder's, so that a feature writes what its anchor is (published
    recipe), or the encoder's, so that it fires where its anchor does. Layer anchors for the
    encoder are the directions that best tell each token's rows from all others, and cosines with
    them are taken in the measure of how the layer's rows scatter (docs/names.md)."""
    weight: float = 2.0
    """Lambda: weight of the mean nearest cosine against the reconstruction loss."""
    start: float = 0.3
    """Share of the steps before the pull sets in: features first find what they respond to."""
    warmup: float = 0.2
    """Share of the steps over which the pull then rises linearly to its full weight."""
    relative: bool = True
    """Lambda is multiplied by the batch's reconstruction loss, as if that entered by its logarithm:
    one value then means the same on layers that are easy and hard to reconstruct, and early and
    late in a run (published recipe: off)."""
    mode: Literal["nearest", "logsumexp", "softmax"] = "nearest"
    """Which cosines count: the largest, or a soft mean of the ten largest (slow)."""
    center: bool = True
    """Embeddings as anchors are taken minus their mean (published recipe: raw). Layer anchors are
    always less the mean of all rows."""
    feature_weight: Literal["uniform", "sqrt_rate"] = "sqrt_rate"
    """Weight of a feature in the mean: equal, or by the root of its recent firing rate."""
    target_cosine: float = 0.5
    """Cosine at which a feature is near enough, so that its pull ends and the rest of its
    direction is free to reconstruct with; at 1 it never does (published recipe).
    The modes logsumexp and softmax take no notice of it."""
    search_fraction: float = 0.25
    """Share of features whose nearest anchor may be searched again in a step, which it is only
    where that is worth it; 1 searches all at every step."""


@dataclass(frozen=True)
class OptimConfig:
    """Adam and its learning rate over the run."""

    lr: float = 4e-3
    """Peak learning rate of Adam (b1 0.9, b2 0.999, eps 1e-8). 4e-3 is for some thousand features;
    of as many as a vocabulary has tokens it lets some die, and 1.5e-3 none."""
    warmup: float = 0.25
    """Share of the steps over which the rate rises linearly from 0."""
    decay: float = 0.5
    """Share of the steps, at the end, over which the rate falls linearly to 0."""
    loss: Literal["variance", "mse"] = "variance"
    """Unit of the reconstruction loss: share of the variance, or mean squared error over d."""


@dataclass(frozen=True)
class MeshConfig:
    """How devices are laid out; their product is the number of devices used."""

    data: int | Literal["auto"] = "auto"
    """Devices that split the rows of a batch; auto (or 0) takes all that the others leave."""
    model: int = 1
    """Devices that split the features."""
    member: int = 1
    """Devices, or groups of them, that split the members of a pack; 1 for a single run."""

    @property
    def rows_over(self) -> int:
        """``data`` as a number, 0 where it is auto."""
        return 0 if self.data == "auto" else self.data


@dataclass(frozen=True)
class RunConfig:
    """The run itself: length, output, logging."""

    out: str = ""
    """Run directory: config.json, metrics.jsonl, events.jsonl, checkpoints/. Rerun to resume."""
    steps: int = 1000
    """Training steps."""
    seed: int = 0
    """Seed of the initial weights and, unless data.seed is given, of the order of the rows."""
    log_every: int = 50
    """Steps between two lines of metrics."""
    checkpoint_every: int = 500
    """Steps between two checkpoints (the last step is always kept)."""
    keep: int = 2
    """Newest checkpoints that are kept; with one alone, damage to it leaves nothing."""
    keep_every: int = 0
    """Checkpoints of steps that are a multiple of this are kept for good; 0 keeps none so."""
    tensorboard: bool = False
    """Also write TensorBoard event files under OUT/tensorboard: curves, and histograms of alignment
    and hold, for which features are looked at on held-out rows at each logged step."""
    wandb: str = ""
    """Also log to this Weights & Biases project, histograms too; a resumed run goes on in its own
    run there."""
    overwrite: bool = False
    """Delete an existing run directory first instead of resuming it."""
    fall_back: bool = False
    """Where the last checkpoint is damaged, resume from the one before it instead of refusing."""


@dataclass(frozen=True)
class Config:
    """One training run."""

    data: DataConfig = field(default_factory=DataConfig)
    sae: SAEConfig = field(default_factory=SAEConfig)
    anchor: AnchorConfig = field(default_factory=AnchorConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    run: RunConfig = field(default_factory=RunConfig)
