"""An SAE of another library, checked, and an import of one on disk."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vasae_jax import __version__
from vasae_jax.activations import Activation, JumpReLU, ReLU, TopK
from vasae_jax.sites import Site
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import atomic_file, refuse_existing, sha256_file
from vasae_jax.utils.read_json import read_json_object
from vasae_jax.utils.replace import check_replaceable, entries_of
from vasae_jax.utils.sizes import read_npz
from vasae_jax.utils.typed import check_fields

ARCHITECTURES = {"topk": TopK, "batchtopk": JumpReLU, "jumprelu": JumpReLU, "relu": ReLU}
"""What other libraries train, and the activation that it is here: a trained BatchTopK applies one
threshold."""
SAME_NAMES = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
"""Tensors of libraries that call them as we do."""


@dataclass(frozen=True, kw_only=True)
class ForeignSAE:
    """An SAE of another library.

    z is the activation of (x - pre_bias * b_dec) W_enc^T + b_enc; x_hat = z W_dec + b_dec.
    """

    library: str
    architecture: str
    """What the library trained, one of ARCHITECTURES."""
    W_enc: np.ndarray
    """float32 [d_sae, d_in], feature-major as in the trainer"""
    b_enc: np.ndarray
    """float32 [d_sae]"""
    W_dec: np.ndarray
    """float32 [d_sae, d_in]"""
    b_dec: np.ndarray
    """float32 [d_in]"""
    threshold: np.ndarray
    """float32 [d_sae]; 0 for TopK and ReLU"""
    k: int
    """Features that may fire on a row: d_sae for all but TopK."""
    pre_bias: float = 0.0
    site: Site | None = None
    """The site that it reads, where its files say so."""
    model: str | None = None
    """Its language model's name, where its files say so."""
    notes: tuple[str, ...] = ()
    """What whoever uses it should know of its settings; not kept in an import."""

    @property
    def activation(self) -> Activation:
        """Which features fire."""
        kind = ARCHITECTURES[self.architecture]
        return TopK(self.k) if kind is TopK else kind()

    @property
    def params(self) -> dict[str, np.ndarray]:
        """The trainer's parameters, with those that the activation adds."""
        names = (*SAME_NAMES, *self.activation.extra_params)
        return {name: getattr(self, name) for name in names}


def make_foreign(
    where: str,
    weights: dict[str, np.ndarray],
    *,
    architecture: str,
    k: int | None = None,
    **origin: Any,
) -> ForeignSAE:
    """An SAE out of its weights, whose shapes are checked against one another.

    Args:
        where: the file that they come from, for messages.
        weights: W_enc [d_sae, d_in], b_enc, W_dec [d_sae, d_in], b_dec; threshold, a number or
            [d_sae], where there is one.
        architecture: what the library trained, one of ARCHITECTURES.
        k: of TopK.
        origin: the other fields of :class:`ForeignSAE`.

    Raises:
        UserError: shapes that do not fit, a value that is not finite, a k out of range.
    """
    arrays = {name: np.asarray(value, np.float32) for name, value in weights.items()}
    checked: dict[str, Any] = _checked(arrays, where)
    d_sae, topk = len(checked["W_dec"]), ARCHITECTURES[architecture] is TopK
    if topk and (not isinstance(k, int) or not 1 <= k <= d_sae):
        raise UserError(f"{where} has k {k!r}; expected a whole number from 1 to {d_sae}")
    k = k if topk and k else d_sae
    return ForeignSAE(architecture=architecture, k=k, **origin, **checked)


def _checked(arrays: dict[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """The five arrays, contiguous; UserError for shapes that do not fit and what is not finite."""
    if arrays["W_dec"].ndim != 2 or not arrays["W_dec"].size:
        raise UserError(
            f"{where} has W_dec of shape {arrays['W_dec'].shape}; expected [features, width]"
        )
    d_sae, d_in = arrays["W_dec"].shape
    threshold = arrays.get("threshold", np.zeros((), np.float32))
    if threshold.ndim == 0:
        threshold = np.full(d_sae, threshold)
    arrays = {**arrays, "threshold": threshold}
    shapes: dict[str, tuple[int, ...]] = {"W_enc": (d_sae, d_in), "b_enc": (d_sae,)}
    shapes |= {"W_dec": (d_sae, d_in), "b_dec": (d_in,), "threshold": (d_sae,)}
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise UserError(
                f"{where} has {name} of shape {arrays[name].shape}; expected {shape}, "
                f"as its {d_sae} features of width {d_in} need"
            )
        if not np.isfinite(arrays[name]).all():
            raise UserError(f"{where} has a {name} that is not finite; expected finite numbers")
    return {name: np.ascontiguousarray(arrays[name], np.float32) for name in shapes}


def by_decoder_norm(weights: dict[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """The same SAE with decoder rows of norm 1: z_i |W_dec[i]| becomes the activation.

    Rows of norm 0 stay as they are. Raises UserError, which names ``where``, for shapes that do not
    fit.
    """
    weights = weights | _checked(weights, where)
    norm = np.linalg.norm(weights["W_dec"].astype(np.float64), axis=1)
    norm = np.where(norm == 0, 1.0, norm)
    return {
        **weights,
        "W_enc": (weights["W_enc"] * norm[:, None]).astype(np.float32),
        "b_enc": (weights["b_enc"] * norm).astype(np.float32),
        "W_dec": (weights["W_dec"] / norm[:, None]).astype(np.float32),
    }


# An import on disk: ``imported.json`` and ``sae.npz`` in a folder of their own.

META, WEIGHTS = "imported.json", "sae.npz"
FORMAT, VERSION = "vasae-import", 1
ARRAYS = (*SAME_NAMES, "threshold")


@dataclass(frozen=True)
class Imported:
    """Where an imported SAE comes from and which rows it belongs to."""

    source: str
    """The folder or repository that was named."""
    cache: str
    cache_digest: str
    layer: int
    site: str
    """Kind of the site in that layer."""
    skip_positions: int
    """Rows at the first so many positions of a context are masked."""
    max_norm: float
    """Rows longer than so many times the median norm are masked; 0 masks none."""


def holds_import(folder: Path) -> bool:
    """Whether ``folder`` is that of an import."""
    return (folder / META).is_file()


def write_import(folder: Path, sae: ForeignSAE, origin: Imported, overwrite: bool) -> None:
    """Write an import; the file that vouches for the other comes last.

    Raises:
        UserError: one exists (and ``overwrite`` was not asked for, or it is none of an import), or
            it cannot be written.
    """
    check_import_place(folder, origin.source, overwrite)
    record = {
        "format": FORMAT,
        "version": VERSION,
        "created_by": f"vasae_jax {__version__}",
        "library": sae.library,
        "activation": sae.architecture,
        **{name: getattr(sae, name) for name in ("k", "pre_bias", "model")},
        **asdict(origin),
    }
    # Both are written before either appears under its name, the record last.
    with atomic_file(folder / META) as meta, atomic_file(folder / WEIGHTS) as weights:
        np.savez(weights, **{name: getattr(sae, name) for name in ARRAYS})
        weights.flush()
        text = json.dumps(record | {"sha256": sha256_file(weights.name)}, indent=2)
        meta.write((text + "\n").encode())


def check_import_place(folder: Path, source: str, overwrite: bool) -> None:
    """Raise UserError unless :func:`write_import` may write to ``folder``; ``source`` is read."""
    here = entries_of(folder, (META, WEIGHTS))
    for path in here:
        refuse_existing(path, overwrite=overwrite)
    if not here:
        return
    if not _is_ours(folder / META):
        raise UserError(f"{folder} holds no import; --overwrite replaces only what one has written")
    check_replaceable(folder, (META, WEIGHTS), [source])


def _is_ours(meta: Path) -> bool:
    """Whether a file is the record of an import, of this or an earlier version."""
    try:
        return bool(read_json_object(meta, "an import's record").get("format") == FORMAT)
    except UserError:
        return False


def read_import(folder: Path) -> tuple[ForeignSAE, Imported]:
    """What :func:`write_import` wrote; UserError where it is damaged or of another version."""
    meta, weights = folder / META, folder / WEIGHTS
    record = read_json_object(meta, "what vasae import wrote")
    try:
        if (record["format"], record["version"]) != (FORMAT, VERSION):
            raise ValueError(f"format {record['format']}, version {record['version']}")
        if record["sha256"] != sha256_file(weights):
            raise ValueError(f"{weights} is another file")
        stored = read_npz(weights)
        arrays = {name: stored[name] for name in ARRAYS}
        record = {"site": "resid_post", **record}  # which older imports do not say
        settings = {key: record[key] for key in ("library", "k", "pre_bias", "model")}
        settings["site"] = Site(record["layer"], record["site"])
        architecture = record["activation"]
        sae = make_foreign(str(weights), arrays, architecture=architecture, **settings)
        origin = Imported(**{name: record[name] for name in Imported.__dataclass_fields__})
        check_fields(origin, meta)
        check_fields(sae, meta)
    except UserError:
        raise
    except Exception as error:  # whatever a damaged file makes NumPy raise
        raise UserError(f"{meta} is damaged ({error}); expected what vasae import wrote") from error
    return sae, origin
