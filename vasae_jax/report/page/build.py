"""The folder of a report: the page, its scripts, and the data of every panel."""

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from vasae_jax import __version__
from vasae_jax.dictionary.claims import BIBTEX, BUCKETS, CLAIM, LAYER_CLAIM, REFERENCE
from vasae_jax.evaluation.sentence import Cells
from vasae_jax.names.by_embedding import Names
from vasae_jax.report.figures.chart import Chart, write_chart
from vasae_jax.report.heatmap import Grid
from vasae_jax.report.page.layer import panel_index, write_panel, write_shard
from vasae_jax.report.panel import Panel
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import unwritable

# Heatmaps as the page reads them.


def grid_json(grid: Grid) -> dict[str, Any]:
    """A heatmap as JSON: tokens, and for each mode a line of cells for each run."""
    return {
        "key": grid.case.key,
        "text": grid.case.text,
        "kind": grid.case.kind,
        "topic": grid.case.topic,
        "model": grid.model,
        "tokens": list(grid.tokens),
        "rows": [{"key": label.key, "label": label.text} for label in grid.labels],
        "modes": {
            mode: [
                _line(*parts)
                for parts in zip(
                    lines,
                    grid.names[mode],
                    grid.relations[mode],
                    grid.embeddings[mode],
                    strict=True,
                )
            ]
            for mode, lines in grid.cells.items()
        },
    }


def _line(
    cells: Cells, names: list[str], relations: list[str], embeddings: list[str]
) -> dict[str, Any]:
    return {
        "feature": cells.feature.tolist(),
        "value": [round(value, 4) for value in cells.value.tolist()],
        "activation": [round(value, 4) for value in cells.activation.tolist()],
        "name": names,
        "relation": relations,
        "embedding": embeddings,
    }


INDEX = "index.html"


def check_folder(out: str | os.PathLike[str], overwrite: bool) -> None:
    """Raise UserError where :func:`build_page` would refuse ``out``.

    Only a folder that holds a report, or nothing, is replaced.
    """
    path = Path(out)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not overwrite:
        raise UserError(f"{path} exists already; expected a new path, or --overwrite to replace it")
    if not (path / INDEX).is_file() or not (path / "data" / "index.js").is_file():
        raise UserError(f"{path} holds no report; --overwrite replaces only the folder of a report")


def build_page(
    out: str | os.PathLike[str],
    panels: Sequence[Panel],
    matches: Mapping[str, Mapping[str, Names]],
    grids: Sequence[Grid] = (),
    charts: Sequence[Chart] = (),
    *,
    overwrite: bool = False,
) -> Path:
    """Write the folder ``out`` of a report; it appears when it is complete.

    Args:
        out: a new folder.
        panels: the runs that are shown.
        matches: by two keys of panels, see :func:`vasae_jax.report.panel.match_panels`.
        grids: heatmaps.
        charts: figures.
        overwrite: replace the report that is there.

    Returns:
        The path of index.html.

    Raises:
        UserError: ``out`` exists, or cannot be written.
    """
    check_folder(out, overwrite)
    path = Path(out)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        _fill(scratch, panels, matches, grids, charts)
        scratch.chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        scratch.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return path / INDEX


def _fill(
    folder: Path,
    panels: Sequence[Panel],
    matches: Mapping[str, Mapping[str, Names]],
    grids: Sequence[Grid],
    charts: Sequence[Chart],
) -> None:
    data = folder / "data"
    _copy_assets(folder)
    for panel in panels:
        write_panel(data, panel, dict(matches[panel.label.key]))
    for key, vocab in {panel.vocab_key: panel.vocab for panel in panels}.items():
        write_shard(data, f"vocab-{key}", [vocab.display(token) for token in range(len(vocab))])
    write_shard(data, "heatmaps", [grid_json(grid) for grid in grids])
    figures = [write_chart(chart, folder / "figures") for chart in charts]
    write_shard(data, "index", _index(panels, matches, len(grids), figures))


def _copy_assets(folder: Path) -> None:
    for asset in files("vasae_jax.report.page").joinpath("assets").iterdir():
        (folder / asset.name).write_bytes(asset.read_bytes())


def _index(
    panels: Sequence[Panel],
    matches: Mapping[str, Mapping[str, Names]],
    heatmaps: int,
    figures: list[dict[str, str]],
) -> dict[str, Any]:
    """What the page loads first."""
    return {
        "made_by": f"vasae_jax {__version__}",
        "claim": CLAIM,
        "layer_claim": LAYER_CLAIM,
        "reference": REFERENCE,
        "bibtex": BIBTEX,
        "buckets": [[name, least] for name, least in BUCKETS],
        "panels": [panel_index(panel, list(matches[panel.label.key])) for panel in panels],
        "heatmaps": heatmaps,
        "figures": figures,
    }
