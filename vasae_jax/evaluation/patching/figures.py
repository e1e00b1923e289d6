"""What patching a layer says, as JSON and as a table."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

POLICIES = ("every_row", "unmasked_rows")
"""Rows that are replaced: all of a window's, or all but first positions and norm outliers."""
POPULATIONS = ("unmasked", "all_rows")
"""Rows over which the logit lens is compared, named as in an evaluation."""
PATCHES = ("identity", "sae", "mean", "zero")
"""What they are replaced by: themselves, the SAE's x_hat, the mean row, 0."""


@dataclass(frozen=True)
class Effect:
    """What one patch does to next-token prediction, as means over the scored positions."""

    ce: float
    """Cross-entropy (nats)."""
    kl: float
    """KL(model || patched model) (nats)."""
    ce_recovered: float | None
    """1 - (ce - CE) / (CE_zero - CE); None if zeros predict no worse than the model."""
    ce_recovered_over_mean: float | None
    """The same with the mean row as the floor."""


@dataclass(frozen=True)
class Lens:
    """How often a replacement's largest logit by the logit lens is the row's own."""

    rows: int
    sae: float
    """Share of the rows, for the SAE's x_hat."""
    mean: float
    """Share of the rows, for the mean row: the baseline."""


@dataclass(frozen=True)
class LMFigures:
    """A model with one layer's output replaced."""

    model: str
    computed: str
    """How the model was run, in words."""
    layer: int
    windows: int
    positions: int
    """Scored positions: those whose next token lies in the window, masked or not."""
    rows: int
    """Rows of the windows."""
    masked_rows: int
    """Of these, first positions and norm outliers."""
    ce: float
    """Cross-entropy of the untouched model (nats)."""
    patched: Mapping[str, Mapping[str, Effect]]
    """By policy of which rows are replaced, then by what replaces them."""
    logit_lens: Mapping[str, Lens]
    """By population of rows."""

    def to_json(self) -> dict[str, Any]:
        """A JSON value."""
        return asdict(self)

    def table(self) -> str:
        """A readable table, one block for each policy."""
        lines = [
            f"{self.model} ({self.computed}) with the output of layer {self.layer} replaced: "
            f"{self.windows} windows, {self.positions} predictions, {self.masked_rows} of "
            f"{self.rows} rows masked",
            _line("", "CE", "KL", "recovered", "over mean"),
            _line("model untouched", f"{self.ce:.4f}", "", "", ""),
            *self._patch_lines(),
            _line("logit lens: same top token", "SAE", "mean row", "rows", ""),
        ]
        for name, lens in self.logit_lens.items():
            shares = f"{lens.sae:.1%}", f"{lens.mean:.1%}", f"{lens.rows}"
            lines.append(_line(f"  {name.replace('_', ' ')}", *shares, ""))
        return "\n".join(line.rstrip() for line in lines)

    def _patch_lines(self) -> Iterator[str]:
        words = {"every_row": "every row replaced", "unmasked_rows": "masked rows left untouched"}
        names = {"identity": "itself", "sae": "SAE", "mean": "mean row", "zero": "zero"}
        for policy, found in self.patched.items():
            yield words[policy]
            for name, effect in found.items():
                shares = (effect.ce_recovered, effect.ce_recovered_over_mean)
                texts = ("-" if share is None else f"{share:.4f}" for share in shares)
                yield _line(f"  {names[name]}", f"{effect.ce:.4f}", f"{effect.kl:.4f}", *texts)


def effects(means: Mapping[str, np.ndarray], ce: float) -> dict[str, Effect]:
    """The effects of the patches of one policy.

    Args:
        means: cross-entropy and KL of each patch, [2].
        ce: cross-entropy of the untouched model.
    """
    zero, mean = float(means["zero"][0]), float(means["mean"][0])
    return {
        name: Effect(
            ce=float(own),
            kl=float(kl),
            ce_recovered=recovered(float(own), ce, zero),
            ce_recovered_over_mean=recovered(float(own), ce, mean),
        )
        for name, (own, kl) in means.items()
    }


def recovered(patched: float, ce: float, floor: float) -> float | None:
    """1 - (patched - ce) / (floor - ce); None if the floor is no worse than the model."""
    return 1 - (patched - ce) / (floor - ce) if floor > ce else None


def _line(head: str, *cells: str) -> str:
    return f"{head:<32}" + "".join(f"{cell:>12}" for cell in cells)
