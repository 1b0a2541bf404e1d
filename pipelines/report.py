"""The report job: tables about a labelled output, on the terminal."""

import sys
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from pipelines.analytics import ERRORS, EXITS, LABELS, RUNS, Analytics
from pipelines.settings import ReportSettings


def report(settings: ReportSettings) -> dict[str, Any]:
    """Print the tables, or one query's result; returns the same as the summary."""
    analytics = Analytics(settings.output)
    console = Console(file=sys.stderr, width=None if sys.stderr.isatty() else 140)
    if settings.sql is not None:
        frame = analytics.query(settings.sql)
        show(console, "", frame)
        return {"rows": _plain(frame)}
    questions = {"exit layers": EXITS, "labels": LABELS, "errors": ERRORS, "runs": RUNS}
    frames = {title: analytics.query(sql) for title, sql in questions.items()}
    for title, frame in frames.items():
        if len(frame):
            show(console, title, frame)
    return {"output": settings.output} | {
        title.replace(" ", "_"): _plain(frame) for title, frame in frames.items()
    }


def show(console: Console, title: str, frame: pd.DataFrame) -> None:
    """A data frame as a terminal table."""
    table = Table(title=title, title_justify="left")
    for name in frame.columns:
        numeric = pd.api.types.is_numeric_dtype(frame[name])
        table.add_column(str(name).replace("_", " "), justify="right" if numeric else "left")
    for row in frame.itertuples(index=False):
        table.add_row(*(_cell(value) for value in row))
    console.print(table)


def _cell(value: Any) -> str:
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return ""
    return f"{value:,}" if isinstance(value, int) else str(value)


def _plain(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON types, missing values as None."""
    rows: Any = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [
        {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in row.items()} for row in rows
    ]
