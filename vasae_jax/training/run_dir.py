"""A run's directory: its settings, its metrics, and whether it may be resumed."""

import contextlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vasae_jax import __version__
from vasae_jax.cache import Cache
from vasae_jax.cache.store import absolute_url
from vasae_jax.config import Config, MeshConfig, RunConfig
from vasae_jax.config.overrides import difference, from_dict, missing_settings, to_dict
from vasae_jax.distributed.hosts import broadcast_from_first, is_first
from vasae_jax.stream.order import VERSION, unchanged_since
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import (
    json_text,
    refuse_url,
    require_utf8,
    write_bytes,
    write_error,
    write_json,
)
from vasae_jax.utils.lock import OWNER, FolderLock
from vasae_jax.utils.read_json import (
    LARGE,
    parse_json,
    read_bounded,
    read_json_lines,
    read_json_object,
)
from vasae_jax.utils.replace import check_replaceable, refuse_links, remove_entries
from vasae_jax.utils.typed import check_fields

CONFIG, METRICS = "config.json", "metrics.jsonl"
WRITTEN = (
    *(METRICS, "events.jsonl", "ended.json", "checkpoints", "tensorboard", "wandb"),
    *("eval-*.json", "names-by-*.txt", "steering-*.jsonl"),
)
"""What is written in a run's directory beside its settings, by training and about the run."""


@dataclass(frozen=True)
class RunRecord:
    """What a run's config.json holds."""

    config: Config
    cache_digest: str
    """Of the cache that it was trained on."""
    vocabulary_digest: str | None
    """Of which string belongs to which embedding row there; None in runs of earlier versions."""
    row_order: int
    """The version of the order of its rows, see :mod:`vasae_jax.stream.order`."""
    created_by: str
    """Package and version that began it."""


@dataclass(frozen=True)
class RunDir:
    """An open run directory."""

    path: Path

    def cut_metrics(self, step: int) -> None:
        """Drop lines after ``step`` and a half-written last line, before resuming there."""
        file = self.path / METRICS
        if is_first() and file.exists():
            lines = read_bounded(file, "the metrics of a run", LARGE).splitlines()
            write_bytes(file, b"".join(line + b"\n" for line in lines if _step_of(line) <= step))

    def best_fvu(self) -> float:
        """The lowest fvu in metrics.jsonl as the first process has it, infinite if none."""
        return float(broadcast_from_first(lambda: repr(min(self._fvus(), default=math.inf))))

    def _fvus(self) -> list[float]:
        return [float(record["fvu"]) for record in metrics_of(self.path) if "fvu" in record]

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl, on the first process.

        Raises:
            UserError: a number is not finite, or the disk is full or not writable.
        """
        if not is_first():
            return
        line = json_text(dict(record), self.path / METRICS)
        try:
            with open(self.path / METRICS, "a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise write_error(self.path / METRICS, error) from error


def claim_runs(
    configs: Sequence[Config], cache: Cache, resources: contextlib.ExitStack
) -> list[RunDir]:
    """The directories of runs, which this process owns until ``resources`` is closed.

    Only the first process of a run writes, and owns; none is made where one is refused.

    Raises:
        UserError: another process trains in one (it is named), or what :func:`open_run` raises.
    """
    if not is_first():
        return [RunDir(Path(config.run.out)) for config in configs]
    for config in configs:
        check_run(config, cache)
    for config in configs:
        resources.enter_context(FolderLock(config.run.out))
    return [open_run(config, cache) for config in configs]


def open_run(config: Config, cache: Cache) -> RunDir:
    """The run directory of ``config``: a new one, or the same run's to resume.

    Raises:
        UserError: it is another run's (the first setting that differs is named), was trained
            on another cache, is no run directory, or cannot be written.
    """
    check_run(config, cache)
    path = Path(config.run.out)
    if config.run.overwrite:
        remove_entries(path, WRITTEN)
    if config.run.overwrite or not (path / CONFIG).exists():
        _write_config(path, config, cache)
    return RunDir(path)


def check_run(config: Config, cache: Cache) -> None:
    """Raise the UserError of :func:`open_run`, but for a disk's; nothing is written."""
    path = Path(config.run.out)
    refuse_url(config.run.out)
    require_utf8(path)
    refuse_links(path, (CONFIG, *WRITTEN))
    if config.run.overwrite:
        _check_deletable(path, config.data.cache)
    elif (path / CONFIG).exists():
        record = read_run(path)
        _check_complete(path, record)
        if changed := _changed(record, config, cache):
            raise UserError(
                f"{path} holds another run: {changed}; expected the same settings to resume it, "
                "another --run.out, or --run.overwrite"
            )
    elif path.exists() and not _vacant(path):
        raise UserError(f"{path} exists and holds no run; expected a new or empty directory")


def _changed(record: RunRecord, config: Config, cache: Cache) -> str | None:
    """In what ``config`` on ``cache`` would train another run than the recorded one, in words."""
    if record.cache_digest != cache.digest:
        return f"the cache {config.data.cache} has changed"
    if config.sae.screen == "auto":  # not decided yet: as the run began
        config = replace(config, sae=replace(config.sae, screen=record.config.sae.screen))
    changed = difference(result_settings(record.config), result_settings(config))
    rows, chunk_rows = cache.rows("train"), cache.manifest.chunk_rows
    if changed or unchanged_since(record.row_order, rows, chunk_rows, config.data.readers):
        return changed
    return (
        f"its rows come in the order of version {record.row_order}, and now in that of version "
        f"{VERSION} (docs/cache.md)"
    )


def _check_complete(path: Path, record: RunRecord) -> None:
    """Raise UserError for a run that lacks settings which shape its result."""
    missing = missing_settings(result_settings(record.config))
    if missing:
        raise UserError(
            f"{path / CONFIG} lacks {', '.join(missing)}, which {record.created_by} did not have, "
            "and this version's defaults may be others than it was trained with; expected all "
            "settings to resume it: go on with that version, or begin a new run with another "
            "--run.out or --run.overwrite"
        )


def read_run(path: Path) -> RunRecord:
    """The settings of a run and what it was trained on.

    Raises:
        UserError: ``path`` is not the directory of a run.
    """
    file = path / CONFIG
    if not file.is_file():
        raise UserError(f"{path} holds no {CONFIG}; expected the directory of a run of vasae train")
    stored = read_json_object(file, "what vasae train wrote")
    record = RunRecord(
        from_dict(stored.get("config"), str(file)),
        stored.get("cache_digest"),  # type: ignore[arg-type]  # checked below
        stored.get("vocabulary_digest"),
        row_order=stored.get("row_order", 1),
        created_by=stored.get("created_by", "an earlier version"),
    )
    check_fields(replace(record, config=Config()), file)  # of which from_dict has checked its own
    return record


def metrics_of(run: Path) -> list[dict[str, float]]:
    """The records of metrics.jsonl of a run, in order; [] where it has none.

    Left out is what is no number, and lines that are no record, such as one that a killed process
    left half written.

    Raises:
        UserError: the file cannot be read.
    """
    records = read_json_lines(run / METRICS, "the metrics of a run")
    numbers = ({key: value for key, value in each.items() if _number(value)} for each in records)
    return [record for record in numbers if "step" in record]


def _step_of(line: bytes) -> float:
    """The step of a line of metrics.jsonl; infinite for one that is no record."""
    try:
        record = parse_json(line, METRICS, "a record", nan=True)
    except UserError:
        return math.inf
    step: Any = record.get("step") if isinstance(record, dict) else None
    return float(step) if _number(step) else math.inf


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _write_config(path: Path, config: Config, cache: Cache) -> None:
    run = replace(config.run, overwrite=False, skip_damaged=False)  # of one start only
    record = {
        "created_by": f"vasae_jax {__version__}",
        "cache_digest": cache.digest,
        "vocabulary_digest": cache.manifest.vocabulary_digest,
        "row_order": VERSION,
        "config": to_dict(replace(config, run=run)),
    }
    write_json(path / CONFIG, record)


def with_absolute_cache(config: Config) -> Config:
    """``config`` with a path of its cache that holds in every working directory."""
    return replace(config, data=replace(config.data, cache=absolute_url(config.data.cache)))


def result_settings(config: Config) -> Config:
    """The settings that shape the result; the others may change when a run is resumed."""
    run = RunConfig(steps=config.run.steps, seed=config.run.seed)
    return replace(config, run=run, mesh=MeshConfig(), data=replace(config.data, cache=""))


def _check_deletable(path: Path, cache: str) -> None:
    """Raise UserError unless a run in ``path`` may be replaced by one on ``cache``."""
    if not path.exists() or _vacant(path):
        return
    if not _is_ours(path / CONFIG):
        raise UserError(f"{path} holds no run; --run.overwrite deletes only what a run has written")
    check_replaceable(path, (CONFIG, *WRITTEN), [cache])


def _is_ours(file: Path) -> bool:
    """Whether a config.json is that of a run, of this or an earlier version."""
    if not file.is_file():  # a named pipe would be waited for
        return False
    try:
        record = read_json_object(file, "the record of a run")
    except UserError:
        return False
    made_here = str(record.get("created_by")).startswith("vasae_jax ")
    return made_here and bool(record.get("cache_digest"))


def _vacant(path: Path) -> bool:
    """Whether a directory is empty, except for the lock of an owner that was killed early."""
    return path.is_dir() and set(os.listdir(path)) <= {OWNER}
