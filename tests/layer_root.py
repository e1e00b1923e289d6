"""The root of a layer's scatter, written out."""

import numpy as np

from vasae_jax.anchor.whitening import WithinCov


def root_of(within_cov: WithinCov) -> np.ndarray:
    """R = floor (I - U U^T) + U (floor + above) U^T, [d, d] float64."""
    floor, U, above = (np.asarray(part, np.float64) for part in within_cov)
    return floor * np.eye(len(U)) + (U * above) @ U.T
