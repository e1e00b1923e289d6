"""``vasae cache info``, ``verify`` and ``finish``; ``import`` and ``export`` are next door."""

import argparse
from collections.abc import Sequence

from vasae_jax.system.errors import UserError


def run(arguments: Sequence[str]) -> None:
    """Print what a cache holds, check every byte of it, join its parts; or import and export."""
    if arguments and arguments[0] in ("import", "export"):
        from vasae_jax.cli import cache_rows

        verb = cache_rows.run_import if arguments[0] == "import" else cache_rows.run_export
        verb(arguments[1:])
        return
    parser = argparse.ArgumentParser(
        prog="vasae cache",
        description="Show what an activation cache holds, verify it, or join its parts. vasae "
        "cache import --help: rows from elsewhere; vasae cache export --help: as NumPy files.",
    )
    parser.add_argument(
        "action",
        choices=("info", "verify", "finish", "import", "export"),
        help="info: print what it holds; verify: read and check every byte; finish: join the parts "
        "of an extraction with --shard",
    )
    parser.add_argument("url", help="the cache: a directory or a gs:// or s3:// URL")
    given = parser.parse_args(arguments)

    from vasae_jax import cache

    if given.action == "info":
        print(cache.info(given.url))
        return
    if given.action == "finish":
        rows = sum(split.rows for split in cache.finish(given.url).splits.values())
        print(f"{given.url}: complete, {rows:,} rows")
        return
    from vasae_jax.anchor import layer

    problems = cache.verify(given.url) + layer.problems(cache.Cache.open(given.url))
    for problem in problems:
        print(problem)
    if problems:
        raise UserError(f"{given.url} has {len(problems)} problem(s); expected none")
    print(f"{given.url}: every array, count and digest is correct")
