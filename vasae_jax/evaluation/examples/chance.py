"""A number that chance gives to each pair of a feature and a row, the same every time."""

import numpy as np


def chance(feature: np.ndarray, row: np.ndarray) -> np.ndarray:
    """float64 [n] in [0, 1), from ``feature`` and ``row`` [n] alone.

    The mixing of SplitMix64 (Steele, Lea and Flood 2014) on the pair: no generator is drawn
    from, so a sample does not depend on the order in which firings are met.
    """
    x = row.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + feature.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53
