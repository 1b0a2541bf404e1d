"""Accuracy of answers, from true labels in the table, which is scanned."""

import logging

import pandas as pd
import pyarrow as pa

from fastbert.errors import InputError
from fastbert.exits.question import ANSWERS, Kind
from pipelines.input.labels import class_names
from pipelines.output.schema import output_schema
from pipelines.reports.analytics import Analytics

log = logging.getLogger(__name__)

#: The labels of a row, sorted; null for none.
_LABELS = "list_sort(list_distinct({column}::varchar[]))::varchar"


def accuracy_by_layer(found: Analytics, truth: str) -> pd.DataFrame:
    """Quality of answers at each exit layer; true labels are read as in `evaluate`.

    Columns `layer` and `rows`; for labels `accuracy_percent`, for one label `mean_score_percent`,
    for a score `mean_absolute_error` and `r2`. Rows without a true label are counted in the log.
    Raises InputError if the column is not carried, holds no labels, or is an output column.
    """
    if len(found.kinds) > 1:
        raise InputError(
            f"--truth-column is '{truth}', the table answers {len(found.kinds)} questions; compare "
            "with --sql, or use fastbert evaluate"
        )
    kind: Kind = next(iter(found.kinds.values()), "single-label")
    if truth.casefold() in output_schema({"": kind}).names:
        raise InputError(
            f"--truth-column is '{truth}', which is an output column; true labels with this name "
            f"in the input are carried as input_{truth}"
        )
    names = found.arrow("from rows limit 0").schema.names
    if truth.casefold() not in map(str.casefold, names):
        raise InputError(
            f"the table has no column '{truth}' for --truth-column; its columns are "
            f"{', '.join(names)}; carry the true labels with --carry of fastbert label"
        )
    column = '"' + truth.replace('"', '""') + '"'
    if kind == "score":
        return _of_scores(found, truth, column)
    return _of_labels(found, kind, truth, column)


def _of_labels(found: Analytics, kind: Kind, truth: str, column: str) -> pd.DataFrame:
    answer = ANSWERS[kind].names[0]
    several = kind == "several-labels"
    label, known = (_LABELS.format(column=c) if several else c for c in (answer, column))
    score = "null::double" if several else "sum(score)"
    groups = found.arrow(f"""
        select exit_layer as layer, {label} as label, {known} as truth, count(*) as rows,
               {score} as score
        from rows where {answer} is not null group by all
    """)
    try:
        truths = class_names(groups["truth"])
    except InputError as error:
        raise InputError(f"--truth-column '{truth}' {error}") from error
    frame = groups.drop_columns(["truth"]).append_column("truth", pa.array(truths, pa.string()))
    counts = frame.to_pandas()
    some = counts[counts["truth"].notna()]
    _log_missing(int(counts["rows"].sum() - some["rows"].sum()), truth)
    strange = some[~some["truth"].isin(set(counts["label"]))]
    if len(strange) and not several:
        log.warning(
            "%d of %d true labels in column '%s' never occur among the model's, such as '%s'; they "
            "count as wrong",
            *(strange["rows"].sum(), some["rows"].sum(), truth, strange["truth"].min()),
        )
    right = some.assign(right=some["rows"].where(some["label"] == some["truth"], 0))
    sums = right.groupby("layer")[["rows", "right", "score"]].sum().reset_index()
    shares = {"accuracy_percent": (100.0 * sums["right"] / sums["rows"]).round(2)}
    if not several:
        shares["mean_score_percent"] = (100.0 * sums["score"] / sums["rows"]).round(2)
    return pd.DataFrame({"layer": sums["layer"], "rows": sums["rows"], **shares})


def _of_scores(found: Analytics, truth: str, column: str) -> pd.DataFrame:
    known = f"nullif(try_cast({column} as double), 'nan'::double)"
    missing = found.query(f"""
        select count(*) as rows from rows where value is not null and {known} is null
    """)
    _log_missing(int(missing["rows"].sum()), truth)
    return found.query(f"""
        select exit_layer as layer, count(*) as rows,
               round(avg(abs(value - {known})), 4) as mean_absolute_error,
               round(1 - avg((value - {known}) ** 2) / nullif(var_pop({known}), 0), 4) as r2
        from rows where value is not null and {known} is not null
        group by exit_layer order by exit_layer
    """)


def _log_missing(rows: int, truth: str) -> None:
    if rows:
        log.info("%d rows have no true label in column '%s', and do not count", rows, truth)
