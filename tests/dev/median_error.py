"""A metric that the package does not have: the example of docs/dev/extend.md."""

import numpy as np

from vasae_jax.training.run import Run


class MedianError:
    """Collects |x - x_hat|^2 of each unmasked row while a split is evaluated."""

    def __init__(self, run: Run, split: str) -> None:
        self._rows = run.cache.acts(run.config.data.input_site, split)
        self._params = {name: np.asarray(value) for name, value in run.params.items()}
        self._errors: list[np.ndarray] = []

    def __call__(
        self, start: int, keep_B: np.ndarray, values_BK: np.ndarray, ids_BK: np.ndarray
    ) -> None:
        """Take in a batch: its first row's place in the split, the mask, and what fires."""
        stop = min(start + len(keep_B), self._rows.shape[0])
        real = stop - start  # the last batch is padded
        x_BD = self._rows.read(start, stop).astype(np.float32)
        x_hat_BD = self._params["b_dec"] + np.einsum(
            "bk,bkd->bd", values_BK[:real], self._params["W_dec"][ids_BK[:real]]
        )
        error_B = np.square(x_BD - x_hat_BD).sum(axis=1)
        self._errors.append(error_B[keep_B[:real]])

    def median(self) -> float:
        """The median over all rows seen."""
        return float(np.median(np.concatenate(self._errors)))
