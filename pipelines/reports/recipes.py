"""Results of each recipe, a checkpoint at an operating point, and of all its audits.

The audit of one run is small. Audits of all runs with one recipe test one promise, and are summed.
"""

import math
from typing import Any

import numpy as np
import pandas as pd

from fastbert.calibration.bounds import interval, rows_to_tell
from pipelines.labelling.audit import CONFIDENCE
from pipelines.reports import questions
from pipelines.reports.analytics import Analytics


def recipes(found: Analytics) -> pd.DataFrame:
    """A row per recipe, the one used last at the end.

    `more_runs` is how many further runs, with as many audited rows as those so far, it takes to
    decide whether the promise is kept: 0 if that is known, null if no number of rows is enough.
    """
    frame = found.query(questions.RECIPES)
    more_runs = pd.Series([_more_runs(row) for row in frame.to_dict("records")], dtype=float)
    return _with_interval(frame).assign(more_runs=more_runs)


def audited_nights(found: Analytics) -> pd.DataFrame:
    """A row per audited run, with its results and those of its recipe until then."""
    frame = found.query(questions.AUDITED)
    so_far = _with_interval(
        frame[["all_audited", "all_agreed"]].rename(columns=lambda name: name.removeprefix("all_"))
    )
    return frame.assign(**{f"all_{name}": so_far[name] for name in _INTERVAL})


_INTERVAL = ["agreement_percent", "lower_percent", "upper_percent"]


def _with_interval(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the audited agreement and its exact interval after `audited` and `agreed`."""
    shares = [
        (each["agreed"] / each["audited"],
         *interval(int(each["agreed"]), int(each["audited"]), CONFIDENCE))
        if each["audited"]
        else (math.nan,) * 3
        for each in frame.to_dict("records")
    ]  # fmt: skip
    columns = 100 * np.array(shares).reshape(-1, 3)
    return frame.assign(**dict(zip(_INTERVAL, columns.round(3).T, strict=True)))


def _more_runs(row: dict[Any, Any]) -> float | None:
    if not row["audited"] or math.isnan(row["promised_percent"]):
        return None
    audited, share = int(row["audited"]), 1 - row["promised_percent"] / 100
    rows = rows_to_tell(audited - int(row["agreed"]), audited, share, CONFIDENCE)
    if rows is None:
        return None
    return float(np.ceil(max(rows - audited, 0) / audited * row["audited_runs"]))
