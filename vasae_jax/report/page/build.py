"""The folder of a report: the page, its scripts, and the data of every run."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from vasae_jax import __version__
from vasae_jax.dictionary.claims import BIBTEX, BUCKETS, CLAIM, LAYER_CLAIM, REFERENCE
from vasae_jax.names.by_embedding import Names
from vasae_jax.report.figures.chart import Chart, write_chart
from vasae_jax.report.heatmap import Heatmap, HeatmapLine
from vasae_jax.report.page.run_files import index_entry, write_run, write_shard
from vasae_jax.report.run_report import RunReport
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import refuse_url, write_error
from vasae_jax.utils.replace import check_replaceable, replace_entries

INDEX = "index.html"
ASSETS = files("vasae_jax.report.page").joinpath("assets")
WRITTEN = (*(asset.name for asset in ASSETS.iterdir()), "data", "figures")
"""What is written in a report's folder."""


def check_folder(out: str | os.PathLike[str], overwrite: bool) -> None:
    """Raise UserError where :func:`build_page` would refuse ``out``.

    Only a folder that holds a report, or nothing, is replaced, and of it what we wrote.
    """
    path = Path(out)
    refuse_url(path)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not overwrite:
        raise UserError(f"{path} exists already; expected a new path, or --overwrite to replace it")
    if not _is_ours(path / "data" / "index.js"):
        raise UserError(f"{path} holds no report; --overwrite replaces only the folder of a report")
    check_replaceable(path, WRITTEN)


def _is_ours(index: Path) -> bool:
    """Whether a file is the index of a report."""
    begin = b'vasae.put("index",{"made_by":"vasae_jax '
    try:
        with open(index, "rb") as file:
            return file.read(len(begin)) == begin
    except OSError:
        return False


def build_page(
    out: str | os.PathLike[str],
    reports: Sequence[RunReport],
    matches: Mapping[str, Mapping[str, Names]],
    heatmaps: Sequence[Heatmap] = (),
    charts: Sequence[Chart] = (),
    *,
    overwrite: bool = False,
) -> Path:
    """Write the folder ``out`` of a report; it appears when it is complete.

    Args:
        out: a new folder.
        reports: the runs that are shown.
        matches: by the keys of two runs, see :func:`vasae_jax.report.run_report.match_features`.
        heatmaps: of sentences.
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
        with tempfile.TemporaryDirectory(
            dir=path.resolve().parent, prefix=f".{path.name}.", ignore_cleanup_errors=True
        ) as scratch:
            _fill(Path(scratch), reports, matches, heatmaps, charts)
            os.chmod(scratch, 0o755)
            if path.exists():
                replace_entries(Path(scratch), path, WRITTEN)
            else:
                os.replace(scratch, path)
    except OSError as error:
        raise write_error(path, error) from error
    return path / INDEX


def _fill(
    folder: Path,
    reports: Sequence[RunReport],
    matches: Mapping[str, Mapping[str, Names]],
    heatmaps: Sequence[Heatmap],
    charts: Sequence[Chart],
) -> None:
    """Write all files; ``data/index.js`` is the one that the page loads first."""
    data = folder / "data"
    for asset in ASSETS.iterdir():
        (folder / asset.name).write_bytes(asset.read_bytes())
    for report in reports:
        write_run(data, report, dict(matches[report.label.key]))
    for key, vocab in {report.vocab_key: report.vocab for report in reports}.items():
        write_shard(data, f"vocab-{key}", [vocab.display(token) for token in range(len(vocab))])
    write_shard(data, "heatmaps", [_heatmap_json(heatmap) for heatmap in heatmaps])
    index = {
        "made_by": f"vasae_jax {__version__}",
        "claim": CLAIM,
        "layer_claim": LAYER_CLAIM,
        "reference": REFERENCE,
        "bibtex": BIBTEX,
        "buckets": BUCKETS,
        "runs": [index_entry(report, list(matches[report.label.key])) for report in reports],
        "heatmaps": len(heatmaps),
        "figures": [write_chart(chart, folder / "figures") for chart in charts],
    }
    write_shard(data, "index", index)


def _heatmap_json(heatmap: Heatmap) -> dict[str, Any]:
    """Tokens, and for each mode a line of cells for each run."""
    return {
        **vars(heatmap.case),
        "model": heatmap.model,
        "tokens": list(heatmap.tokens),
        "rows": [{"key": label.key, "label": label.text} for label in heatmap.labels],
        "modes": {mode: list(map(_line, lines)) for mode, lines in heatmap.lines.items()},
    }


def _line(line: HeatmapLine) -> dict[str, Any]:
    cells = line.cells
    return {
        "feature": cells.feature.tolist(),
        "value": [round(value, 4) for value in cells.value.tolist()],
        "activation": [round(value, 4) for value in cells.activation.tolist()],
        "name": line.names,
        "relation": line.relations,
        "embedding": line.embeddings,
    }
