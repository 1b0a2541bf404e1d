"""Exact confidence bounds of a share, without normal approximation."""

import scipy  # imports `stats` on first use, because that takes long


def upper_bound(failures: int, rows: int, confidence: float) -> float:
    """Upper bound of a share, given this number of failures among `rows`: Clopper and Pearson's,
    one-sided."""
    if failures >= rows:
        return 1.0
    return float(scipy.stats.beta.ppf(confidence, failures + 1, rows - failures))


def interval(successes: int, rows: int, confidence: float) -> tuple[float, float]:
    """Interval of a share: Clopper and Pearson's, exact, two-sided; (0, 1) without rows."""
    if rows == 0:
        return 0.0, 1.0
    tail = (1 + confidence) / 2
    return 1 - upper_bound(rows - successes, rows, tail), upper_bound(successes, rows, tail)


def rows_to_tell(failures: int, rows: int, share: float, confidence: float) -> int | None:
    """Number of rows, at least `rows`, until the interval of failures lies on one side of `share`,
    if failures stay as frequent; None if a billion are too few."""

    def decides(n: int) -> bool:
        low, high = interval(round(failures / rows * n), n, confidence)
        return high <= share or low > share

    low, high = rows - 1, rows
    while not decides(high):
        low, high = high, 2 * high
        if high > 10**9:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high
