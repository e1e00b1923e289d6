"""Heatmaps as the page reads them."""

from typing import Any

from vasae_jax.evaluation.sentence import Cells
from vasae_jax.report.heatmap.grid import Grid


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
