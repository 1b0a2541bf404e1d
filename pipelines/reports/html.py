"""The report as one HTML file that needs nothing beside itself."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import resources

import jinja2
import pandas as pd

from fastbert.filesystem import shown
from pipelines.reports import figures, questions
from pipelines.reports.analytics import Analytics
from pipelines.reports.cells import cell, shortened

#: Rows of a table.
_MOST_ROWS = 100


@dataclass(frozen=True)
class Section:
    """A table and, if it has something to draw, a picture beside it.

    Both show the frame of that name; the picture shows the one called `drawn`, if that is given.
    """

    title: str
    says: str
    frame: str
    draw: Callable[[pd.DataFrame], str] | None = None
    drawn: str = ""
    #: The table's rows and columns, where it does not show the frame as it is.
    wide: tuple[str, str] | None = None


def _spending(costs: pd.DataFrame) -> str:
    """Money if prices are known, else seconds."""
    unit = "price" if costs["price_per_million"].notna().any() else "seconds"
    values = {f"{unit}_per_million": "spent", f"full_depth_{unit}_per_million": "full depth"}
    return figures.lines(costs, values, f"{unit} per million rows")


_SECTIONS = (
    Section("Labels", "Of all rows the table holds.", "labels", figures.labels),
    Section("Accuracy by exit layer", "Against the labels that the table carries.", "accuracy"),
    Section(
        "Exit layers by label",
        "A label whose rows leave late is one that the shallow layers do not know well.",
        "exits by label",
        wide=("label", "layer"),
    ),
    Section(
        "Exit layers",
        "The layer that answered, of all rows the table holds; audited rows ran to full depth, "
        "too.",
        "exit layers",
        figures.exit_layers,
    ),
    Section(
        "Exit layers by run",
        "Another mix than before means that the corpus has changed, or the model.",
        "exits by run",
        partial(figures.stacked, key="layer", value="percent", unit="% of rows"),
        wide=("run_id", "layer"),
    ),
    Section(
        "Cost",
        "Per million rows, in seconds of the replicas and, with --price-per-hour, in its currency; "
        "audits included. Full depth is what the same rows would have cost by their FLOPs.",
        "costs",
        _spending,
    ),
    Section(
        "Audit",
        "Of the audited rows, those that early exit labels as full depth does; exact 95 % "
        "intervals.",
        "audits",
        figures.agreement,
        "audited",
    ),
    Section(
        "Drift of the exit layers",
        "The share of rows that leave at other layers than when the operating point was "
        "calibrated.",
        "drift",
        partial(figures.lines, values={"drift": "drift"}, unit="share of rows"),
    ),
    Section(
        "Labels by run",
        "The most frequent ones.",
        "labels by run",
        partial(figures.stacked, key="label", value="rows", unit="rows"),
        wide=("run_id", "label"),
    ),
    Section(
        "Uncertainty",
        "How sure rows were when they left. The last layer answers all that reach it.",
        "uncertainty",
        figures.uncertainties,
    ),
    Section(
        "Where the time goes",
        "Seconds of work by step, added up over processes; of the rows the table holds.",
        "times",
        partial(figures.stacked, key="step", value="value", unit="seconds"),
        "steps",
    ),
    Section("Slowest slices", "", "slowest slices"),
    Section("Errors", "Rows that have no label, by reason.", "errors"),
    Section("Unreadable shards", "The last fifty.", "unreadable shards"),
    Section("Runs", "", "runs"),
)


def html_report(found: Analytics, output: str, frames: Mapping[str, pd.DataFrame]) -> str:
    """The page. `frames` are the answers that the terminal shows, by title."""
    page = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page.filters["cell"] = cell
    page.tests["numeric"] = lambda column: bool(pd.api.types.is_numeric_dtype(column))
    template = resources.files("pipelines.reports").joinpath("report.html.j2").read_text()
    return page.from_string(template).render(
        output=shown(output),
        model=_model(found),
        made_at=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        figures=_figures(frames),
        promise=_promise(frames["audits"]),
        alarms=frames["alarms"],
        sections=_sections({**frames, **_more(found, frames)}),
    )


def _figures(frames: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    """What is said first, in one number each."""
    layers, runs, audits = frames["exit layers"], frames["runs"], frames["audits"]
    rows = int(layers["rows"].sum())
    audited = audits[audits["agreement_percent"].notna()] if len(audits) else audits
    speedups = runs["flops_speedup"].dropna()
    numbers = {
        "rows labelled": cell(rows),
        "rows with an error": cell(int(frames["errors"]["rows"].sum())),
        "mean exit layer": f"{(layers['layer'] * layers['rows']).sum() / max(rows, 1):.2f}",
        "runs": cell(len(runs)),
    }
    if len(speedups):
        numbers["times fewer FLOPs, last run"] = f"{speedups.iloc[-1]:.2f}"
    if len(audited):
        numbers["% as at full depth, last audit"] = f"{audited['agreement_percent'].iloc[-1]:.2f}"
    return numbers


def _model(found: Analytics) -> str:
    """The last run's, and its operating point."""
    last = found.query(questions.LAST_MODEL)
    return f"{last['model'].iloc[0]} ({last['operating_point'].iloc[0]})" if len(last) else ""


def _promise(audits: pd.DataFrame) -> str:
    """What the last audited run has promised, and whether its audit can be true of that."""
    judged = audits.dropna(subset=["agreement_percent", "promised_percent"])
    if not len(judged):
        return ""
    last = judged.iloc[-1]
    differ = 100 - last[["promised_percent", "agreement_percent", "upper_percent", "lower_percent"]]
    most, found, low, high = (f"{float(share):.3g} %" for share in differ)
    verdict = (
        "too few rows to tell whether the promise is kept. A higher --audit-rate will, in runs to "
        "come; what is labelled is not audited again"
    )
    if differ.iloc[2] > differ.iloc[0]:
        verdict = "this audit speaks against the promise"
    elif differ.iloc[3] <= differ.iloc[0]:
        verdict = "this audit confirms the promise"
    return (
        f"The last audited run promises that at most {most} of its labels differ from those of the "
        f"same model at full depth. Of {cell(last['audited'])} audited rows {found} do, so that of "
        f"all rows {low} to {high} do (with 95 % confidence): {verdict}. Whether labels are right, "
        "no audit knows."
    )


def _more(found: Analytics, frames: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The frames that only the page shows."""
    audits, times = frames["audits"], found.query(questions.TIMES)
    starts = frames["runs"].set_index("run_id")["started_at"]
    seconds = ["read_seconds", "tokenize_seconds", "device_seconds", "commit_seconds"]
    steps = times.assign(started_at=times["run_id"].map(starts))
    steps = steps.melt(["run_id", "started_at"], seconds, "step")
    drift = audits.loc[audits["drift"].notna(), ["run_id", "started_at", "drift", "drift_p"]]
    return {
        "exits by label": found.query(questions.EXITS_BY_LABEL),
        "exits by run": found.query(questions.EXITS_BY_RUN),
        "audited": audits[audits["agreement_percent"].notna()],
        "drift": drift,
        "labels by run": found.query(questions.LABELS_BY_RUN),
        "uncertainty": found.query(questions.UNCERTAINTY),
        "times": times,
        "steps": steps.assign(step=steps["step"].str.removesuffix("_seconds")),
    }


def _sections(
    frames: Mapping[str, pd.DataFrame],
) -> Iterator[tuple[Section, pd.DataFrame, str]]:
    """The page's body: sections with their tables and pictures. What there is nothing to say about
    is left out, and pictures by run where there is only one."""
    for section in _SECTIONS:
        frame = frames.get(section.frame, pd.DataFrame())
        if not len(frame):
            continue
        table = _wide(frame, *section.wide) if section.wide else frame
        drawn, picture = frames[section.drawn] if section.drawn else frame, ""
        by_run = "started_at" in drawn.columns
        if section.draw and len(drawn) and (len(frames["runs"]) > 1 or not by_run):
            picture = section.draw(drawn)
        yield section, shortened(table, section.frame, _MOST_ROWS), picture


def _wide(frame: pd.DataFrame, by: str, key: str) -> pd.DataFrame:
    """Numbers of rows: a row per value of `by`, a column per `key`, the largest first."""
    table = frame.pivot_table("rows", by, key, "sum", fill_value=0, sort=False)
    if not pd.api.types.is_numeric_dtype(frame[key]):
        table = table[table.sum().sort_values(ascending=False).index[:20]]
    else:
        table = table[sorted(table.columns)]
    table.columns = pd.Index([f"{key} {name}" for name in table.columns])
    return table.reset_index()
