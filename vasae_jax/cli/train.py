"""``vasae train``."""

from collections.abc import Sequence

from vasae_jax.config import Config
from vasae_jax.configfile import load_file, parse_overrides

PROGRAM = "vasae train [CONFIG.py]"


def run(arguments: Sequence[str]) -> None:
    """Train the run of a config file, or of the defaults, with overrides applied."""
    rest = list(arguments)
    named = bool(rest) and not rest[0].startswith("-")
    default = load_file(rest.pop(0)) if named else Config()
    config = parse_overrides(default, rest, PROGRAM)

    from vasae_jax.train.loop import train  # JAX starts only once the settings are read

    path = train(config)
    print(path)
