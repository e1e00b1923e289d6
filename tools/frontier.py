#!/usr/bin/env python3
"""Train recipes over a grid of lambdas and show reconstruction against alignment.

All points share cache, rows, mask, features, k, batch, steps and seeds. Each finished point
is kept in OUT/rows.jsonl, so a run that was stopped goes on where it was. Alignment is to the
anchors that a recipe states; raw embeddings are beside it.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from vasae_jax.cache import Cache
from vasae_jax.report.frontier import RECIPES, Grid, points, run_points, table
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.memory import keep_pages

LAMBDAS = {
    "plain": (0.0,),
    "published": (1e-4,),
    "embedding": (3.5,),
    "default": (1.0, 2.0),
    "named": (4.0,),
}
"""The grid of each recipe, unless --lambdas says otherwise."""


def main() -> None:
    """Parse, train what is missing, print and draw."""
    keep_pages()
    parser = _parser()
    given = parser.parse_args()
    try:
        grid = make_grid(given)
        rows = run_points(
            grid, Path(given.out) / "rows.jsonl", lambda text: print(text, file=sys.stderr)
        )
        if not given.no_figure:
            from vasae_jax.report.figures.frontier import frontier_figure

            frontier_figure(rows, Path(given.out) / "frontier.png", overwrite=True)
    except UserError as error:
        parser.exit(2, f"frontier: {error}\n")
    print(json.dumps(rows, indent=1) if given.json else table(rows))


def make_grid(given: argparse.Namespace) -> Grid:
    """The grid that the arguments ask for.

    Raises:
        UserError: the cache is unusable, or a recipe is unknown.
    """
    layers = Cache.open(given.cache).manifest.layers
    recipes = given.recipes or list(LAMBDAS)
    lambdas = {name: tuple(given.lambdas or LAMBDAS.get(name, ())) for name in recipes}
    grid = Grid(
        cache=given.cache,
        lambdas=lambdas,
        layers=tuple(given.layers or layers),
        seeds=tuple(given.seeds),
        steps=given.steps,
        batch=given.batch,
        d_sae=given.d_sae,
        k=given.k,
    )
    if given.quick:
        quick = {"published": (1e-4,), "default": (RECIPES["default"]().anchor.weight,)}
        middle = grid.layers[len(grid.layers) // 2]
        grid = replace(grid, lambdas=quick, layers=(middle,), seeds=grid.seeds[:1])
    points(grid)
    return grid


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--cache", required=True, help="activation cache, such as the quickstart's OUT/cache")
    add("--out", required=True, help="directory for rows.jsonl and frontier.png")
    add("--recipes", nargs="+", metavar="NAME", help=f"from {', '.join(RECIPES)} (default: all)")
    add("--lambdas", nargs="+", type=float, metavar="L", help="instead of each recipe's own grid")
    add("--layers", nargs="+", type=int, metavar="N", help="layers (default: all of the cache)")
    add("--seeds", nargs="+", type=int, default=[0], metavar="N", help="seeds (default: 0)")
    add("--steps", type=int, default=Grid.steps, help=f"default {Grid.steps}")
    add("--batch", type=int, default=Grid.batch, help=f"rows of a step (default {Grid.batch})")
    add("--d-sae", type=int, default=Grid.d_sae, help=f"features (default {Grid.d_sae})")
    add("--k", type=int, default=Grid.k, help=f"features that fire on a row (default {Grid.k})")
    add(
        "--quick",
        action="store_true",
        help="one layer (the middle one given), one seed, published at 1e-4 and the default",
    )
    add("--json", action="store_true", help="print a JSON list of rows instead of a table")
    add("--no-figure", action="store_true", help="draw nothing (matplotlib is not needed)")
    return parser


if __name__ == "__main__":
    main()
