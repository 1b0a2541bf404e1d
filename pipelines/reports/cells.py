"""Data frames as shown on the terminal and on the page."""

from typing import Any

import numpy as np
import pandas as pd

#: Labels in a table or a picture; the others are summed.
MOST_LABELS = 15
#: Frames whose last rows matter most: they have a row per run, in the order of time.
_BY_RUN = {"runs", "costs", "audits", "drift", "exits by run", "labels by run", "times"}


def shortened(frame: pd.DataFrame, name: str, most: int) -> tuple[pd.DataFrame, str | None]:
    """The `most` rows that matter most, and, if there are others, a line with their number; columns
    without values, such as unknown prices, are left out."""
    last = name in _BY_RUN
    some = frame.tail(most) if last else frame.head(most)
    which = f"the {'last' if last else 'first'} {most} of {len(frame):,}"
    if (others := len(frame) - len(some)) and "rows" in frame and not last:
        which += f"; the other {others:,} have {frame['rows'][most:].sum():,} rows"
    return some.dropna(axis="columns", how="all"), which if others else None


def summed(frame: pd.DataFrame, key: str, most: int = MOST_LABELS) -> pd.DataFrame:
    """The first `most` rows, and the others summed in one row; means are over their rows."""
    rest = frame[most:]
    if len(rest) < 2:
        return frame
    sums = rest.drop(columns=key).sum()
    for mean in {"mean_layer"} & {*frame.columns}:
        sums[mean] = round((rest[mean] * rest["rows"]).sum() / max(sums["rows"], 1), 2)
    others = pd.DataFrame([{key: f"({len(rest):,} other {key}s)"} | sums.to_dict()])
    return pd.concat([frame[:most], others.astype(frame.dtypes.drop(key))], ignore_index=True)


def spread(frame: pd.DataFrame, value: str, by: str, key: str, most: int = 20) -> pd.DataFrame:
    """Sums of `value`: a row per `by`, a column per `key`. Layers keep their order; of other keys,
    the `most` with the largest sums come first, and the others are summed."""
    table = frame.pivot_table(value, by, key, "sum", fill_value=0, sort=False)
    if key == "layer":
        return table.sort_index(axis="columns")
    others = f"(other {key}s)"
    sums = table.drop(columns=others, errors="ignore").sum()
    first = sums.sort_values(ascending=False, kind="stable").index[:most]
    rest = table.drop(columns=first)
    return table[first].assign(**{others: rest.sum(axis="columns")} if len(rest.columns) else {})


def cell(value: Any) -> str:
    """A value as readable text."""
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return ""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, pd.Timestamp):
        return value.isoformat(" ", "minutes")  # strftime knows 10,000 years only
    if isinstance(value, float):
        if 0 < abs(value) < 1e-3:
            return f"{value:.2g}"
        return f"{value:,.4f}".rstrip("0").rstrip(".")
    return f"{value:,}" if isinstance(value, int) else str(value)
