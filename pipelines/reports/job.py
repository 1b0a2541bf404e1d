"""The report job: sentences and tables about a labelled output, or the result of a query."""

import math
import posixpath
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.text import Text

from fastbert.filesystem import open_url, reaching, redacted
from fastbert.writable import check_file
from pipelines.reports import analytics, questions, terminal
from pipelines.reports.accuracy import accuracy_by_layer
from pipelines.reports.analytics import Analytics
from pipelines.reports.check import check
from pipelines.reports.lead import lead
from pipelines.reports.recipes import recipes
from pipelines.reports.uncertain import least_certain
from pipelines.settings import ReportSettings

_QUESTIONS = {
    "slowest slices": questions.SLOWEST_SLICES,
    "runs": questions.RUNS,
    "costs": questions.COSTS,
    "audits": questions.AUDITS,
    "unreadable shards": questions.BAD_SHARDS,
    "alarms": questions.ALARMS,
    "exit layers": questions.EXIT_LAYERS,
    "questions": questions.QUESTIONS,
    "labels": questions.LABELS,
    "errors": questions.ERRORS,
}
#: Rows shown of a query's result; a million would take minutes.
_RESULT = 1_000
#: Width of a query's result without a terminal, in characters, so that cells are not folded.
_WIDTH = 1_000


def report(settings: ReportSettings) -> dict[str, Any]:
    """Print the sentences and tables, a query's result, or the findings for a person; returns the
    same as the summary."""
    found = analytics.open(settings.output)
    for url in filter(None, (settings.save, settings.html)):
        check_file(url)
    width = terminal.WIDTH if settings.sql is None else _WIDTH
    console = terminal.console(settings.json, width)
    if settings.check:
        checked = check(found, settings.max_age)
        for line in checked.lines():
            console.print(Text(line))
        shown = redacted(settings.output)
        return {"output": shown, **asdict(checked), "exit_code": checked.exit_code}
    if settings.sql is not None:
        return _answer(found, settings.sql, settings.save, console)
    frames = {title: found.query(sql) for title, sql in _QUESTIONS.items()}
    frames["recipes"] = recipes(found)
    if settings.truth_column is not None:
        frames["accuracy"] = accuracy_by_layer(found, settings.truth_column)
    if settings.least_certain is not None:
        frames["least certain"] = least_certain(
            found, settings.least_certain, list(settings.text_from)
        )
    sentences = lead(frames)
    terminal.write(console, sentences, frames)
    summary: dict[str, Any] = {"output": redacted(settings.output)}
    if settings.html is not None:
        from pipelines.reports.html import html_report

        page = html_report(found, settings, sentences, frames)
        fs, path = open_url(settings.html)
        summary["html"] = place = redacted(settings.html)
        with reaching(f"cannot write '{place}'", "pass another --html"):
            fs.makedirs(posixpath.dirname(path), exist_ok=True)
            fs.pipe_file(path, page.encode())
    return summary | {title.replace(" ", "_"): _plain(frame) for title, frame in frames.items()}


def _answer(found: Analytics, sql: str, save: str | None, console: Console) -> dict[str, Any]:
    """The result of the user's query, saved or printed."""
    if save is not None:
        return {"saved": redacted(save), "rows": found.save(sql, save)}
    frame = found.query(sql)
    more = f"the first {_RESULT:,} of {len(frame):,} rows; the summary and --save have all"
    terminal.show(console, "", frame.head(_RESULT), more if len(frame) > _RESULT else None)
    return {"rows": _plain(frame)}


def _plain(value: Any) -> Any:
    """Rows, or a single value, as JSON types; None for missing values and infinite numbers."""
    if isinstance(value, pd.DataFrame):
        return [_plain(row) for row in value.to_dict("records")]
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    infinite = isinstance(value, float) and math.isinf(value)
    return None if infinite or pd.isna(value) else value
