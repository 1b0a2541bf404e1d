"""How often labels are right, where the table carries the true ones: it is scanned for that."""

import logging

import pandas as pd
import pyarrow as pa

from fastbert.errors import InputError
from pipelines.input.labels import class_names
from pipelines.output.schema import OUTPUT
from pipelines.reports.analytics import Analytics

log = logging.getLogger(__name__)


def accuracy_by_layer(found: Analytics, truth: str) -> pd.DataFrame:
    """Accuracy and calibration of each exit layer, with true labels read as `evaluate` reads them.

    Columns `layer`, `rows`, `accuracy_percent` and `mean_score_percent`; rows without a true label
    are counted in the log. Raises InputError for a column that is not carried, or names no classes,
    and for the job's own.
    """
    if truth.casefold() in OUTPUT.names:
        raise InputError(
            f"--truth-column is '{truth}', which is the model's own; true labels that were called "
            f"so in the input are carried as input_{truth}"
        )
    names = found.arrow("from rows limit 0").schema.names
    if truth.casefold() not in map(str.casefold, names):
        raise InputError(
            f"the table has no column '{truth}' for --truth-column; its columns are "
            f"{', '.join(names)}; carry the true labels with --carry of fastbert label"
        )
    column = '"' + truth.replace('"', '""') + '"'
    groups = found.arrow(f"""
        select exit_layer as layer, label, {column} as truth, count(*) as rows, sum(score) as score
        from rows where label is not null group by all
    """)
    try:
        truths = class_names(groups["truth"])
    except InputError as error:
        raise InputError(f"--truth-column '{truth}' {error}") from error
    frame = groups.drop_columns(["truth"]).append_column("truth", pa.array(truths, pa.string()))
    counts = frame.to_pandas()
    some = counts[counts["truth"].notna()]
    if missing := int(counts["rows"].sum() - some["rows"].sum()):
        log.info("%d rows have no true label in column '%s', and do not count", missing, truth)
    strange = some[~some["truth"].isin(set(counts["label"]))]
    if len(strange):
        log.warning(
            "%d of %d true labels in column '%s' are none that the model has given, as '%s'; they "
            "count as wrong",
            *(strange["rows"].sum(), some["rows"].sum(), truth, strange["truth"].min()),
        )
    right = some.assign(right=some["rows"].where(some["label"] == some["truth"], 0))
    sums = right.groupby("layer")[["rows", "right", "score"]].sum().reset_index()
    shares = {
        "accuracy_percent": (100.0 * sums["right"] / sums["rows"]).round(2),
        "mean_score_percent": (100.0 * sums["score"] / sums["rows"]).round(2),
    }
    return pd.DataFrame({"layer": sums["layer"], "rows": sums["rows"], **shares})
