"""What a sample says of a share, exactly: no normal approximation."""

import scipy  # which imports `stats` when it is first used: that takes long


def upper_bound(failures: int, rows: int, confidence: float) -> float:
    """Of a share, given that many failures among `rows`: Clopper and Pearson's, one-sided."""
    if failures >= rows:
        return 1.0
    return float(scipy.stats.beta.ppf(confidence, failures + 1, rows - failures))


def interval(successes: int, rows: int, confidence: float) -> tuple[float, float]:
    """Of a share: Clopper and Pearson's exact interval, two-sided; (0, 1) without rows."""
    if rows == 0:
        return 0.0, 1.0
    tail = (1 + confidence) / 2
    return 1 - upper_bound(rows - successes, rows, tail), upper_bound(successes, rows, tail)


def rows_to_tell(failures: int, rows: int, share: float, confidence: float) -> int | None:
    """How many rows it takes, `rows` at least, until the interval of their failures lies on one
    side of `share`, if they go on to fail as often as these; None if a billion are too few."""

    def tells(n: int) -> bool:
        low, high = interval(round(failures / rows * n), n, confidence)
        return high <= share or low > share

    low, high = rows - 1, rows
    while not tells(high):
        low, high = high, 2 * high
        if high > 10**9:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if tells(middle) else (middle, high)
    return high
