"""The report as one self-contained HTML file."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib import resources

import jinja2
import pandas as pd

from fastbert.filesystem import redacted
from pipelines.reports import figures, questions
from pipelines.reports.analytics import Analytics
from pipelines.reports.cells import cell, shortened, spread, summed
from pipelines.reports.recipes import audited_nights
from pipelines.settings import ReportSettings

#: Rows of a table.
_MOST_ROWS = 100
#: Queries only for the page.
_MORE = {
    "exits by label": questions.EXITS_BY_LABEL,
    "exits by run": questions.EXITS_BY_RUN,
    "labels by run": questions.LABELS_BY_RUN,
    "uncertainty": questions.UNCERTAINTY,
    "times": questions.TIMES,
    "steps": questions.STEPS,
    "drift": questions.DRIFT,
}
#: Charts, by the frame that they show.
_DRAW: dict[str, figures.Drawing] = {
    "labels": figures.labels,
    "exit layers": figures.exit_layers,
    "exits by run": partial(figures.stacked, key="layer", value="percent", unit="% of rows"),
    "costs": figures.spending,
    "audited": figures.agreement,
    "drift": partial(figures.lines, values={"drift": "drift"}, unit="share of rows"),
    "labels by run": partial(figures.stacked, key="label", value="rows", unit="rows"),
    "uncertainty": figures.uncertainties,
    "steps": partial(figures.stacked, key="step", value="value", unit="seconds"),
}
#: Frames shown as a cross table of numbers of rows by these two columns.
_WIDE = {
    "exits by label": ("label", "layer"),
    "exits by run": ("run_id", "layer"),
    "labels by run": ("run_id", "label"),
}


_BY_LABEL = {"labels", "exits by label"}


def html_report(
    found: Analytics,
    settings: ReportSettings,
    sentences: Sequence[str],
    frames: Mapping[str, pd.DataFrame],
) -> str:
    """The page: `sentences`, then `frames`, the tables of the terminal, by title."""
    page = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page.filters["cell"] = cell
    page.tests["numeric"] = lambda column: bool(pd.api.types.is_numeric_dtype(column))
    template = resources.files("pipelines.reports").joinpath("report.html.j2").read_text()
    frames = {**frames, **{name: found.query(sql) for name, sql in _MORE.items()}}
    frames["audited"] = audited_nights(found)
    return page.from_string(template).render(
        title=settings.title or f"Labels in {redacted(settings.output)}",
        output=redacted(settings.output),
        last=found.query(questions.LAST_MODEL),
        made_at=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        sentences=sentences,
        frames=frames,
        tables=_tables(frames),
        pictures=_pictures(frames),
    )


def _tables(frames: Mapping[str, pd.DataFrame]) -> dict[str, tuple[pd.DataFrame, str | None]]:
    """The frames as the page shows them, with a note on omitted rows; empty ones are left out."""
    some = {name: frame for name, frame in frames.items() if len(frame)}
    for name in _WIDE.keys() & some.keys():
        wide = spread(some[name], "rows", *_WIDE[name])
        some[name] = wide.add_prefix(f"{wide.columns.name} ").reset_index()
    for name in _BY_LABEL & some.keys():
        some[name] = summed(some[name], "label")
    return {name: shortened(table, name, _MOST_ROWS) for name, table in some.items()}


def _pictures(frames: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    """Charts of frames that are not empty; those by run only for several runs."""
    several = len(frames["runs"]) > 1
    return {
        name: figures.svg(draw, frames[name])
        for name, draw in _DRAW.items()
        if len(frames[name]) and (several or "started_at" not in frames[name])
    }
