"""Training recipes over a grid of lambdas, on the same rows, and measuring each result.

Every recipe gets the same cache, layer, mask, batch, features, k, steps and seed: what is
left of it is how it starts, what it minimises and how its learning rate goes.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vasae_jax.cache import Cache
from vasae_jax.config import Config, DataConfig, MeshConfig, RunConfig, presets
from vasae_jax.config.overrides import to_dict
from vasae_jax.distributed.mesh import DATA, MODEL, make_mesh
from vasae_jax.evaluation.evaluate import Evaluation
from vasae_jax.evaluation.metrics import Alignment
from vasae_jax.evaluation.run import SPLIT, RunNames, evaluate_run, run_names
from vasae_jax.names.evidence import evidence, input_relation
from vasae_jax.names.firings import ROWS, Watch
from vasae_jax.names.scores import held
from vasae_jax.sae import Params, choose_execution
from vasae_jax.training.autotune import measured
from vasae_jax.training.checks import check_cache, check_mesh, check_settings, features
from vasae_jax.training.hparams import phases
from vasae_jax.training.loop import begin, make_stream
from vasae_jax.training.loss import Batch
from vasae_jax.training.run import Run
from vasae_jax.training.step import make_step
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import sha256_bytes, write_bytes

RECIPES: Mapping[str, Callable[[], Config]] = {
    "plain": presets.plain,
    "published": presets.published,
    "embedding": presets.embedding,
    "default": presets.default,
    "named": presets.named,
}
"""Recipes by name."""
Row = dict[str, Any]
"""One trained and measured point."""


@dataclass(frozen=True)
class Grid:
    """What is trained: every recipe at each of its lambdas, on every layer, with every seed."""

    cache: str
    """Activation cache: a directory or URL."""
    lambdas: Mapping[str, tuple[float, ...]]
    """For each recipe its lambdas."""
    layers: tuple[int, ...]
    seeds: tuple[int, ...] = (0,)
    steps: int = 800
    batch: int = 1024
    """Rows per step."""
    d_sae: int = 4096
    """Features; 0 means as many as the vocabulary has tokens."""
    k: int = 32
    """Features that may fire on one row."""
    search_fraction: float = 0.03
    """Share of the features whose nearest anchor may be searched again in a step. With the
    presets' own share the published recipe, whose rows turn fast, takes twice the time."""


def points(grid: Grid) -> list[tuple[str, Config]]:
    """Each point of the grid as its recipe's name and its config, cheapest order to stop in:
    one seed of everything first.

    Raises:
        UserError: a recipe that is not in RECIPES.
    """
    for name in grid.lambdas:
        if name not in RECIPES:
            raise UserError(f"recipe {name} is not known; expected one of {', '.join(RECIPES)}")
    return [
        (name, _config(grid, name, weight, layer, seed))
        for seed in grid.seeds
        for layer in grid.layers
        for name, weights in grid.lambdas.items()
        for weight in weights
    ]


def run_points(grid: Grid, file: Path, tell: Callable[[str], None]) -> list[Row]:
    """Train and measure what ``file`` does not hold yet; the rows of the grid, in its order.

    Args:
        grid: what is wanted.
        file: JSON lines, one a finished point, written whole after each.
        tell: is given a line about each point that is run.

    Raises:
        UserError: settings that do not fit the cache or each other, before anything is trained.
    """
    wanted = points(grid)
    cache = Cache.open(grid.cache)
    for _, config in wanted:
        check_settings(config)
        check_cache(config, cache)
    done = read_rows(file)
    keys = [point_key(name, config, cache) for name, config in wanted]
    for key, (name, config) in zip(keys, wanted, strict=True):
        if key in done:
            continue
        done[key] = {"key": key, **train_point(name, config, cache)}
        text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in done.values())
        write_bytes(file, text.encode())
        tell(line(done[key]))
    return [done[key] for key in keys]


def read_rows(file: Path) -> dict[str, Row]:
    """Rows that earlier calls wrote, by key; none where there is no file.

    Raises:
        UserError: the file is something else.
    """
    if not file.exists():
        return {}
    try:
        rows = [json.loads(text) for text in file.read_text().splitlines()]
        return {row["key"]: row for row in rows}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file} does not hold rows of a frontier: {error}") from error


def point_key(name: str, config: Config, cache: Cache) -> str:
    """A digest of all that shapes a point: the recipe's name, every setting, the cache."""
    settings = to_dict(replace(config, data=replace(config.data, cache=cache.digest)))
    return sha256_bytes(json.dumps([name, settings], sort_keys=True).encode())[:16]


def train_point(name: str, config: Config, cache: Cache) -> Row:
    """Train ``config`` in memory and measure it on the held-out split."""
    began = time.monotonic()
    params = train_params(config, cache)
    trained = time.monotonic() - began
    run = Run(config, config.run.steps, params, cache)
    names, watch = run_names(run), Watch(cache, SPLIT, ROWS)
    evaluation = evaluate_run(run, names, observe=watch)
    return {
        "recipe": name,
        "lambda": config.anchor.weight,
        "layer": config.data.layer,
        "seed": config.run.seed,
        **_figures(evaluation),
        **_hold(run, names, watch),
        "d_sae": evaluation.features,
        "k": config.sae.k,
        "batch": config.data.batch,
        "steps": config.run.steps,
        "model": cache.manifest.model.id,
        "seconds": round(trained, 1),
    }


def train_params(config: Config, cache: Cache) -> Params:
    """The parameters after the run's last step; nothing is written.

    Raises:
        UserError: the run diverged.
    """
    d_sae = features(config, cache.manifest.vocab_size)
    mesh = make_mesh(config.mesh)
    check_mesh(config, mesh.shape[DATA], mesh.shape[MODEL], d_sae)
    config = measured(config, mesh, (d_sae, cache.manifest.d_model))
    context, state = begin(config, cache, mesh, d_sae)
    execution = choose_execution(config.sae.execution, jax.default_backend())
    steps = phases(config, lambda turn: make_step(turn(config), mesh, state, execution))
    with make_stream(config, cache).prefetch(0) as batches:
        for number in range(1, config.run.steps + 1):
            _, batch = next(batches)
            rows = Batch(jnp.asarray(batch.x), jnp.asarray(batch.keep))
            state, metrics = steps(number)(state, rows, context)
    if not np.isfinite(float(metrics.loss)):
        raise UserError(
            f"the loss is {float(metrics.loss)} after {config.run.steps} steps at lambda "
            f"{config.anchor.weight}; expected a finite number, so a lower learning rate"
        )
    return state.params


COLUMNS = (
    ("variance_explained", "VE", "{:.3f}"),
    ("dead_fraction", "dead", "{:.1%}"),
    ("hold1", "hold@1", "{:.1%}"),
    ("ceiling1", "ceiling", "{:.1%}"),
    ("hold10", "hold@10", "{:.1%}"),
    ("ceiling10", "ceiling", "{:.1%}"),
    ("shuffled10", "shuffled", "{:.2%}"),
    ("mass", "mass@10", "{:.1%}"),
    ("ceiling_mass", "ceiling", "{:.1%}"),
    ("holds", "holds", "{:.1%}"),
    ("contradicted", "contradicted", "{:.1%}"),
    ("firing_aligned", "firing", "{:.1%}"),
    ("firing_cosine", "cosine", "{:.3f}"),
    ("embedding_at", "by embedding", "{:.1%}"),
    ("embedding_before", "before", "{:.1%}"),
)
"""Figures of a table: key, heading, format."""


def line(row: Row) -> str:
    """One point in one line."""
    head = f"{row['recipe']} lambda {row['lambda']:g} layer {row['layer']} seed {row['seed']}: "
    shown = (f"{heading} {form.format(row[key])}" for key, heading, form in COLUMNS)
    return head + ", ".join(shown) + f" ({row['seconds']:.0f} s)"


def table(rows: list[Row]) -> str:
    """Mean and, over several seeds, half the range of every figure, as a Markdown table."""
    heads = ["layer", "recipe", "lambda", "seeds", *(heading for _, heading, _ in COLUMNS)]
    lines = [heads, ["---"] * len(heads)]
    for (layer, recipe, weight), same in group(rows).items():
        cells = [_spread([row[key] for row in same], form) for key, _, form in COLUMNS]
        lines.append([str(layer), recipe, f"{weight:g}", str(len(same)), *cells])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def group(rows: list[Row]) -> dict[tuple[int, str, float], list[Row]]:
    """Rows that differ in their seed alone, by layer, recipe and lambda, in that order."""
    found: dict[tuple[int, str, float], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["layer"]):
        found.setdefault((row["layer"], row["recipe"], row["lambda"]), []).append(row)
    return found


def _spread(values: list[float], form: str) -> str:
    middle = form.format(float(np.mean(values)))
    half = (max(values) - min(values)) / 2
    return f"{middle} ± {form.format(half)}" if len(values) > 1 else middle


def _config(grid: Grid, name: str, weight: float, layer: int, seed: int) -> Config:
    recipe, own = RECIPES[name](), DataConfig()
    return replace(
        recipe,
        data=replace(own, cache=grid.cache, layer=layer, batch=grid.batch),
        sae=replace(recipe.sae, d_sae=grid.d_sae, k=grid.k),
        anchor=replace(recipe.anchor, weight=weight, search_fraction=grid.search_fraction),
        mesh=MeshConfig(data=1, model=1),
        run=RunConfig(out="unused", steps=grid.steps, seed=seed),
    )


def _figures(evaluation: Evaluation) -> Row:
    found = evaluation.unmasked
    raw = found.alignment[-1]
    return {
        "variance_explained": found.variance_explained,
        "dead_fraction": found.dead_fraction,
        **_alignment(found.alignment[0]),
        **{f"raw_{key}": value for key, value in _alignment(raw).items() if key != "anchor"},
        "rows": found.rows,
    }


def _alignment(found: Alignment) -> Row:
    keys = ("anchor", "firing_aligned", "mass_aligned", "coverage", "firing_cosine")
    return {key: getattr(found, key) for key in (*keys, "dictionary_aligned")}


def _hold(run: Run, names: RunNames, watch: Watch) -> Row:
    """What layer names hold over all firing features, and names by embeddings beside."""
    found = watch.firings()
    worth = evidence(found, names.layer, watch.watched())
    norms = np.linalg.norm(np.asarray(run.params["W_dec"], np.float64), axis=1)
    layer = vars(held(found, names.layer, worth, norms)[0])
    embedding = input_relation(found, names.stated.ids)
    return {
        **{key: value for key, value in layer.items() if key not in ("group", "features")},
        "embedding_at": embedding.at.named,
        "embedding_before": embedding.just_before.named,
    }
