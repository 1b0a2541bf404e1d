"""The report as one HTML file that needs nothing beside itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import jinja2
import pandas as pd

from fastbert.filesystem import shown
from pipelines.reports import figures, questions
from pipelines.reports.analytics import Analytics
from pipelines.reports.terminal import cell

#: Rows of a table that has one per run: the last. Of other tables the first, which matter most.
_MOST_ROWS = 100


@dataclass(frozen=True)
class Section:
    """A picture, or none, beside the table that it shows."""

    title: str
    says: str
    table: pd.DataFrame
    picture: str = ""


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
        sections=_sections(found, frames),
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


def _sections(found: Analytics, frames: Mapping[str, pd.DataFrame]) -> list[Section]:
    """The page's body; what there is nothing to say about is left out."""

    def drawn(frame: pd.DataFrame, draw: Callable[..., str], *arguments: Any) -> str:
        return draw(frame, *arguments) if len(frame) else ""

    def over_time(frame: pd.DataFrame, draw: Callable[..., str], *arguments: Any) -> str:
        return drawn(frame, draw, *arguments) if len(frames["runs"]) > 1 else ""

    costs, audits = frames["costs"], frames["audits"]
    exits_by_run = found.query(questions.EXITS_BY_RUN)
    labels_by_run = found.query(questions.LABELS_BY_RUN)
    uncertainty, times = found.query(questions.UNCERTAINTY), found.query(questions.TIMES)
    priced = costs["price_per_million"].notna().any() if len(costs) else False
    unit = "price" if priced else "seconds"
    money = "the currency of --price-per-hour" if priced else "seconds of the replicas"
    starts = frames["runs"].set_index("run_id")["started_at"]
    steps = times.assign(started_at=times["run_id"].map(starts)).melt(
        ["run_id", "started_at"],
        ["read_seconds", "tokenize_seconds", "device_seconds", "commit_seconds"],
        "step",
    )
    steps["step"] = steps["step"].str.removesuffix("_seconds")
    audited = audits[audits["agreement_percent"].notna()]
    drifting = audits[audits["drift"].notna()]
    sections = [
        Section(
            "Labels",
            "Of all rows the table holds.",
            frames["labels"],
            drawn(frames["labels"], figures.labels),
        ),
        Section(
            "Exit layers by label",
            "A label whose rows leave late is one that the shallow layers do not know well.",
            _wide(found.query(questions.EXITS_BY_LABEL), "label", "layer"),
        ),
        Section(
            "Exit layers",
            "The layer that answered, of all rows the table holds; audited rows ran to full depth, "
            "too.",
            frames["exit layers"],
            drawn(frames["exit layers"], figures.exit_layers),
        ),
        Section(
            "Exit layers by run",
            "Another mix than before means that the corpus has changed, or the model.",
            _wide(exits_by_run, "run_id", "layer"),
            over_time(exits_by_run, figures.stacked, "layer", "percent", "% of rows"),
        ),
        Section(
            "Cost",
            f"Per million rows, in {money}, audits included; full depth is what the same rows "
            "would have cost by their FLOPs.",
            costs,
            over_time(
                costs,
                figures.lines,
                {f"{unit}_per_million": "spent", f"full_depth_{unit}_per_million": "full depth"},
                f"{unit} per million rows",
            ),
        ),
        Section(
            "Audit",
            "Of the audited rows, those that early exit labels as full depth does; exact 95 % "
            "intervals.",
            audits,
            over_time(audited, figures.agreement),
        ),
        Section(
            "Drift of the exit layers",
            "The share of rows that leave at other layers than when the operating point was "
            "calibrated.",
            drifting[["run_id", "started_at", "drift", "drift_p"]],
            over_time(drifting, figures.lines, {"drift": "drift"}, "share of rows"),
        ),
        Section(
            "Labels by run",
            "The most frequent ones.",
            _wide(labels_by_run, "run_id", "label"),
            over_time(labels_by_run, figures.stacked, "label", "rows", "rows"),
        ),
        Section(
            "Uncertainty",
            "How sure rows were when they left. The last layer answers all that reach it.",
            uncertainty,
            drawn(uncertainty, figures.uncertainties),
        ),
        Section(
            "Where the time goes",
            "Seconds of work by step, added up over processes; of the rows the table holds.",
            times,
            over_time(steps, figures.stacked, "step", "value", "seconds"),
        ),
        Section("Slowest slices", "", frames["slowest slices"]),
        Section("Errors", "Rows that have no label, by reason.", frames["errors"]),
        Section("Unreadable shards", "The last fifty.", frames["unreadable shards"]),
        Section("Runs", "", frames["runs"]),
    ]
    if "accuracy" in frames:
        says = "Against the labels that the table carries."
        sections.insert(1, Section("Accuracy by exit layer", says, frames["accuracy"]))
    return [
        replace(section, table=_shortened(section)) for section in sections if len(section.table)
    ]


def _shortened(section: Section) -> pd.DataFrame:
    """What of a table is shown: columns that are empty, as prices that nobody gave, are not."""
    by_run = section.table.columns[0] == "run_id" and section.title != "Unreadable shards"
    some = section.table.tail(_MOST_ROWS) if by_run else section.table.head(_MOST_ROWS)
    return some.dropna(axis="columns", how="all")


def _wide(frame: pd.DataFrame, by: str, key: str) -> pd.DataFrame:
    """Numbers of rows: a row per value of `by`, a column per `key`, the largest first."""
    if not len(frame):
        return frame
    table = frame.pivot_table("rows", by, key, "sum", fill_value=0, sort=False)
    if not pd.api.types.is_numeric_dtype(frame[key]):
        table = table[table.sum().sort_values(ascending=False).index[:20]]
    else:
        table = table[sorted(table.columns)]
    table.columns = pd.Index([f"{key} {name}" for name in table.columns])
    return table.reset_index()
