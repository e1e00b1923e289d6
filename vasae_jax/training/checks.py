"""What can be wrong with a run or a pack, found before anything compiles or is written."""

import os
from collections.abc import Sequence

from vasae_jax.activations import ACTIVATIONS
from vasae_jax.cache import Cache
from vasae_jax.config import Config, OptimConfig
from vasae_jax.config.overrides import check_types, flatten
from vasae_jax.sites import check_supported
from vasae_jax.training.autotune import may_screen
from vasae_jax.training.hparams import SETTINGS, peak_lr
from vasae_jax.utils.errors import UserError

SMALLEST = 1e-12
"""Least deviation of a row's entries that is trained on, so that squares are normal float32."""
MOST_FLOAT = 3.4e38
"""Numbers of this size and more are infinite in float32; no NaN is below it either."""
MOST_LR = 0.2
"""Learning rate, in units of the entries' deviation, above which a run begins with a warning."""


def features(config: Config, vocab_size: int) -> int:
    """d_sae, where 0 stands for the size of the vocabulary."""
    return config.sae.d_sae or vocab_size


def order_seed(config: Config) -> int:
    """The seed of the order of the rows."""
    return config.run.seed if config.data.seed is None else config.data.seed


def check_single(config: Config) -> None:
    """Raise UserError where a single run asks for places for several."""
    _require(
        config.mesh.member == 1,
        f"--mesh.member is {config.mesh.member}; expected 1 for a single run (a config file with "
        "a list of them trains a pack)",
    )


def check_settings(config: Config) -> None:
    """Raise UserError for settings that are wrong whatever the cache is."""
    check_types(config, "the config")
    _require(bool(config.data.cache), "--data.cache is empty; expected an activation cache")
    _require(bool(config.run.out), "--run.out is empty; expected a directory for the run")
    _check_size(config)
    for name, value, least in _least(config):
        _require(value >= least, f"--{name} is {value}; expected at least {least}")
    _check_activation(config.sae.activation)
    for name, rate in _rates(config.optim):
        _require(rate > 0, f"--optim.{name} is {rate}; expected more than 0")
    for name, decay in (("b1", config.optim.b1), ("b2", config.optim.b2)):
        _require(0 <= decay < 1, f"--optim.{name} is {decay}; expected at least 0, less than 1")
    for name, share in _shares(config):
        _require(0 <= share <= 1, f"--{name} is {share}; expected a share from 0 to 1")
    for name, share in (
        ("search-fraction", config.anchor.search_fraction),
        ("target-cosine", config.anchor.target_cosine),
    ):
        _require(0 < share <= 1, f"--anchor.{name} is {share}; expected more than 0, at most 1")
    _require(
        config.data.batch % config.data.readers == 0,
        f"--data.batch is {config.data.batch}; expected a multiple of --data.readers "
        f"({config.data.readers})",
    )
    check_supported(config.data.input_site, "the site of --data.layer and --data.site")


def _check_size(config: Config) -> None:
    """Raise UserError for numbers that a step's types cannot hold: infinite, or as good as that."""
    for name, value in flatten(config).items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, float):
            _require(abs(value) < MOST_FLOAT, f"{option} is {value}; expected a finite number")
        elif isinstance(value, int) and not name.endswith("layer"):
            bits = 32 if name.endswith("seed") else 31
            _require(value < 2**bits, f"{option} is {value}; expected less than 2^{bits}")


def _check_activation(name: str) -> None:
    trainable = [kind for kind in ACTIVATIONS if ACTIVATIONS[kind].trainable]
    known = "cannot be trained" if name in ACTIVATIONS else "is not known"
    _require(
        name in trainable,
        f"--sae.activation is {name!r}, which {known}; expected one of {', '.join(trainable)}",
    )


def check_cache(config: Config, cache: Cache) -> None:
    """Raise UserError where the settings do not fit the cache's layers and sizes.

    Also where its token strings are not those that its embedding rows came with.
    """
    manifest = cache.manifest
    _require(
        config.data.input_site in manifest.sites,
        f"{config.data.input_site} is not in cache {config.data.cache}; "
        f"expected one of its sites: {', '.join(map(str, manifest.sites))}",
    )
    d_sae = features(config, manifest.vocab_size)
    k = config.sae.k
    _require(k <= d_sae, f"--sae.k is {k}; expected at most the number of features ({d_sae})")
    _require(
        config.sae.method != "tied" or d_sae == manifest.vocab_size,
        f"--sae.method=tied has --sae.d-sae={d_sae}; expected 0 or the cache's vocabulary "
        f"({manifest.vocab_size})",
    )
    cache.vocab()  # compares them with their digest


def check_deviation(config: Config, deviation: float) -> None:
    """Raise UserError where rows are too small for sums of squares in float32.

    ``deviation`` is that of a row's entries from their mean, root mean square.
    """
    _require(
        deviation >= SMALLEST,
        f"the entries of {config.data.input_site} in {config.data.cache} deviate from their mean "
        f"by {deviation:.2g} (root mean square); expected at least {SMALLEST:g} (multiply the rows "
        "by a constant)",
    )


def rate_warning(configs: Sequence[Config], d_sae: int, deviation: float) -> str | None:
    """A warning where the learning rate of runs on a site is large for its rows, or None.

    Adam moves an entry of b_enc and b_dec by about the learning rate in a step, and both are in
    the unit of the rows. From a third of the entries' deviation on, reconstruction was seen to
    suffer, then features to die.
    """
    largest = max(peak_lr(config.optim, d_sae) for config in configs)
    if largest <= MOST_LR * deviation:
        return None
    return (
        f"warning: --optim.lr={largest:g} is large for {configs[0].data.input_site}, whose "
        f"entries deviate from their mean by {deviation:.2g} (root mean square): biases move by "
        "the learning rate in a step, so reconstruction suffers and features may die; expected at "
        f"most {MOST_LR * deviation:.2g}, or rows that are multiplied by a constant"
    )


def check_mesh(config: Config, data: int, model: int, d_sae: int) -> None:
    """Raise UserError where rows or features cannot be split evenly over the mesh."""
    batch = config.data.batch
    _require(
        batch % data == 0,
        f"--data.batch is {batch}; expected a multiple of the mesh's data axis ({data})",
    )
    above = -(-d_sae // model) * model
    _require(
        d_sae % model == 0,
        f"{d_sae} features cannot be split over the mesh's model axis ({model}); "
        f"expected a multiple of it, such as --sae.d-sae={above}",
    )
    _require(
        config.sae.k <= d_sae // model,
        f"--sae.k is {config.sae.k}; expected at most the features of one device "
        f"({d_sae // model})",
    )


def _least(config: Config) -> list[tuple[str, float, float]]:
    """(setting, value, least value) for the plain lower bounds."""
    data, sae, run = config.data, config.sae, config.run
    return [
        ("data.layer", data.layer, 0),
        ("data.batch", data.batch, 1),
        ("data.readers", data.readers, 1),
        ("data.shuffle_chunks", data.shuffle_chunks, 1),
        ("data.skip-positions", data.skip_positions, 0),
        ("data.max-norm", data.max_norm, 0),
        ("sae.d-sae", sae.d_sae, 0),
        ("sae.k", sae.k, 1),
        ("anchor.weight", config.anchor.weight, 0),
        ("sae.b-enc-init", config.sae.b_enc_init, 0),
        ("optim.resample-after", config.optim.resample_after, 0),
        ("data.seed", order_seed(config), 0),
        ("mesh.member", config.mesh.member, 1),
        ("mesh.data", config.mesh.rows_over, 0),
        ("mesh.model", config.mesh.model, 1),
        ("run.steps", run.steps, 1),
        ("run.log-every", run.log_every, 1),
        ("run.checkpoint-every", run.checkpoint_every, 1),
        ("run.keep", run.keep, 1),
        ("run.keep-every", run.keep_every, 0),
        ("run.seed", run.seed, 0),
    ]


def _rates(optim: OptimConfig) -> list[tuple[str, float]]:
    """(setting, value) for what multiplies Adam's updates."""
    rates = [("encoder-lr-ratio", optim.encoder_lr_ratio)]
    return rates if optim.lr is None else [("lr", optim.lr), *rates]


def _shares(config: Config) -> list[tuple[str, float]]:
    """(setting, value) for the shares of a run's steps."""
    return [
        ("optim.warmup", config.optim.warmup),
        ("optim.decay", config.optim.decay),
        ("anchor.init-fraction", config.anchor.init_fraction),
        ("anchor.start", config.anchor.start),
        ("anchor.warmup", config.anchor.warmup),
    ]


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise UserError(sentence)


FREE = (*SETTINGS.values(), "data.layer", "data.site", "run.seed", "run.out")
"""Settings in which members of a pack may differ."""
_OF_ONE_START = ("run.overwrite", "run.skip_damaged")
"""Settings of one start, not of the run."""


def alike(config: Config, features: int, platform: str) -> tuple[tuple[str, object], ...]:
    """What the runs of a pack have in common, by name: equal for those that may train together.

    Args:
        config: of a run.
        features: those on one device.
        platform: of the devices.
    """
    # Other programs, with their own rounding: one finds few features, one has no term for b_dec.
    programs = {
        "the seed of the order of the rows": order_seed(config),
        "whether k features may be found through bfloat16": may_screen(config, features, platform),
        "whether b_dec is taken from the input": config.sae.pre_bias != 0,
    }
    settings = {k: v for k, v in flatten(config).items() if k not in FREE + _OF_ONE_START}
    return tuple({**settings, **programs}.items())


def check_pack(configs: Sequence[Config], features: int, platform: str) -> None:
    """Raise UserError where runs cannot train in one program on the same rows.

    They may differ in FREE alone; the order of the rows must be the same, and the directories
    must not. For the other arguments see :func:`alike`.
    """
    _require(bool(configs), "a pack has no runs; expected at least one Config")
    first, *others = configs
    expected = dict(alike(first, features, platform))
    for number, config in enumerate(others, 1):
        _require(
            first.data.seed != config.data.seed or order_seed(first) == order_seed(config),
            f"runs 0 and {number} of the pack have run.seed {first.run.seed} and "
            f"{config.run.seed}, so each has an order of rows of its own; expected one "
            "--data.seed for all, the seed of the order that they share",
        )
        for name, value in alike(config, features, platform):
            _require(
                value == expected[name],
                f"runs 0 and {number} of the pack differ in {name} ({expected[name]!r} and "
                f"{value!r}); expected no difference but in {', '.join(FREE)}",
            )
    places: dict[str, int] = {}
    for number, config in enumerate(configs):
        other = places.setdefault(os.path.abspath(config.run.out), number)
        _require(
            other == number,
            f"runs {other} and {number} of the pack both have --run.out={config.run.out}; "
            "expected a directory for each",
        )
