"""Test statistics, all in standard deviations: a fair source gives |z| < 4 in all but 6 of 100,000 tests.

Seeds are fixed, so a test never fails by chance now and then: it fails always or never. The bound that tests compare
with is 4, and up to 5 for the largest of many.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def of_chi_square(statistic: float, freedom: int) -> float:
    """z of a chi-square statistic (Wilson and Hilferty 1931). Below −4 is wrong as well: too even is not random."""
    share = 2 / (9 * freedom)
    return float(((statistic / freedom) ** (1 / 3) - (1 - share)) / math.sqrt(share))


def of_counts(counts: ArrayLike, expected: ArrayLike) -> float:
    """z of the chi-square of counts (cells,), where the only constraint is their sum."""
    found = np.asarray(counts, float).ravel()
    hoped = np.broadcast_to(np.asarray(expected, float), np.shape(counts)).ravel()
    return of_chi_square(float(((found - hoped) ** 2 / hoped).sum()), len(found) - 1)


def of_image_counts(counts: NDArray[np.int64], permutations: int) -> float:
    """z of counts (n, n) of how often place p went to row r in some number of permutations of n.

    Every row and column of the table sums to that number, which leaves (n − 1)² degrees of freedom; the covariance of
    permutation matrices makes the statistic smaller by (n − 1) / n than that of independent cells.
    """
    n = len(counts)
    expected = permutations / n
    return of_chi_square(float(((counts - expected) ** 2).sum() / expected * (n - 1) / n), (n - 1) ** 2)


def of_events(happened: float, expected: float) -> float:
    """z of a number of rare, almost independent events."""
    return (happened - expected) / math.sqrt(expected)


def lag_correlations(values: NDArray[Any], lags: list[int]) -> NDArray[np.float64]:
    """z of the correlation of a sequence with itself at each lag, (lags,)."""
    centred = values - values.mean()
    power = float((centred**2).mean())
    return np.array([(centred[lag:] * centred[:-lag]).sum() / power / math.sqrt(len(values) - lag) for lag in lags])


def of_ascents(values: NDArray[np.int64]) -> float:
    """z of how often a sequence of distinct values rises: (n − 1) / 2 times with variance (n + 1) / 12."""
    n = len(values)
    return float(((values[1:] > values[:-1]).sum() - (n - 1) / 2) / math.sqrt((n + 1) / 12))


def of_runs(values: NDArray[np.int64]) -> float:
    """z of how many runs of equal values a sequence has, given how often it holds each (Wald and Wolfowitz 1940).

    Positive: the values alternate; negative: they clump. For c values of n_i each, neighbours differ with probability
    1 − Σ n_i (n_i − 1) / n (n − 1); the variance is that of the number of differing neighbours for many values.
    """
    n = len(values)
    counts = np.unique(values, return_counts=True)[1].astype(float)
    pairs, triples = (counts**2).sum(), (counts**3).sum()
    mean = (n * (n + 1) - pairs) / n
    variance = (pairs * (pairs + n * (n + 1)) - 2 * n * triples - n**3) / (n**2 * (n - 1))
    runs = 1 + int((values[1:] != values[:-1]).sum())
    return float((runs - mean) / math.sqrt(variance))
