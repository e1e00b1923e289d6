"""Train the run of CONFIG.py, or a pack of runs if it lists several.

Run the command again to resume a run that was stopped. For a run on several hosts, run the same
command on each with --distributed. All settings of a run follow below.
"""

from collections.abc import Sequence

from vasae_jax.cli.options import VerbParser, add_hosts, run_on_hosts
from vasae_jax.config import Config
from vasae_jax.config.overrides import load_config_or_pack, parse_overrides

PROGRAM = "vasae train [CONFIG.py]"


def run(arguments: Sequence[str]) -> None:
    """Train the run or pack of a config file, or of the defaults, with the settings that follow.

    If it fails as one of several processes, it ends the process.
    """
    parser = _parser()
    if {"-h", "--help"} & set(arguments):
        parser.print_help()
    args, rest = parser.parse_known_args(list(arguments))
    has_file = bool(rest) and not rest[0].startswith("-")
    default = load_config_or_pack(rest.pop(0)) if has_file else Config()
    pack = default if isinstance(default, list) else [default]
    configs = [parse_overrides(config, rest, PROGRAM) for config in pack]
    # Of several processes none may fail alone: they check together, once they are connected.
    if args.dry_run or (args.distributed, args.process_id, args.processes) == ("", None, None):
        _check(configs)
    if args.dry_run:
        from vasae_jax.training.shapes import planned

        print(planned(configs))  # nothing is compiled or written
        return
    run_on_hosts(args, lambda: _train(configs, isinstance(default, list)))


def _check(configs: list[Config]) -> None:
    """Raise UserError for wrong settings or caches, before JAX is loaded."""
    from vasae_jax.cache import Cache
    from vasae_jax.training.checks import check_cache, check_settings

    for config in configs:
        check_settings(config)
        check_cache(config, Cache.open(config.data.cache))


def _train(configs: list[Config], is_pack: bool) -> list[str]:
    """Train, and return the run directories."""
    from vasae_jax.training.loop import train, train_pack

    return list(map(str, train_pack(configs) if is_pack else [train(configs[0])]))


def _parser() -> VerbParser:
    parser = VerbParser(
        prog="vasae train",
        description=__doc__,
        usage="vasae train [CONFIG.py] [arguments]",
        add_help=False,
        allow_abbrev=False,
    )
    what = "check the settings and the cache, print the memory needed on each device, and stop"
    parser.add_argument("--dry-run", action="store_true", help=what)
    add_hosts(parser)
    return parser
