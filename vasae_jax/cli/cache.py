"""``vasae cache info``, ``verify`` and ``finish``."""

import argparse
from collections.abc import Sequence

from vasae_jax.system.errors import UserError


def run(arguments: Sequence[str]) -> None:
    """Print what a cache holds, check every byte of it, or join its parts."""
    parser = argparse.ArgumentParser(
        prog="vasae cache",
        description="Show what an activation cache holds, verify it, or join its parts.",
    )
    parser.add_argument(
        "action",
        choices=("info", "verify", "finish"),
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
