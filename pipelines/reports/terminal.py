"""The report on a terminal: lines and tables that fit 80 columns, the most important first."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pipelines.reports.cells import cell, shortened, summed

#: Titles in order, and the columns shown on a terminal; none: all.
TABLES: dict[str, tuple[str, ...]] = {
    "alarms": (),
    "unreadable shards": (),
    "accuracy": (),
    "questions": (),
    "labels": (),
    "exit layers": ("layer", "rows", "percent", "mean_tokens", "audited",
                    "audit_agreement_percent"),
    "errors": (),
    "recipes": ("checkpoint", "operating_point", "runs", "rows", "flops_speedup", "audited",
                "agreement_percent", "promised_percent"),
    "audits": ("run_id", "audited", "agreement_percent", "lower_percent", "promised_percent",
               "drift"),
    "costs": ("run_id", "rows", "device_seconds", "seconds_per_million",
              "full_depth_seconds_per_million", "price", "full_depth_price_per_million"),
    "runs": ("run_id", "rows", "errors", "mean_layer", "flops_speedup", "truncated_rows",
             "exit_code"),
}  # fmt: skip
#: Headings that would otherwise be broken within a word.
_SHORT = {"truncated_rows": "cut", "flops_speedup": "FLOPs fewer"}
#: Rows of a table.
_SHOWN = 20
#: Characters of a line without a terminal.
WIDTH = 80


def console(quiet: bool, width: int = WIDTH) -> Console:
    """stderr, as wide as its terminal, or `width` characters without one."""
    wide = None if sys.stderr.isatty() else width
    return Console(file=sys.stderr, width=wide, highlight=False, quiet=quiet)


def write(console: Console, sentences: Sequence[str], frames: Mapping[str, pd.DataFrame]) -> None:
    """Print the sentences, and the tables that are not empty."""
    for sentence in sentences:
        console.print(Text(sentence))
    less = False
    for title, columns in TABLES.items():
        frame = frames.get(title)
        if frame is None or not len(frame) or (title == "recipes" and len(frame) == 1):
            continue  # for one recipe, the sentences have it
        if title == "labels":
            frame = summed(frame, "label")
        if title == "exit layers":
            frame = frame[frame["rows"] > 0]
        some, below = shortened(frame, title, _SHOWN)
        chosen = some[[name for name in some.columns if not columns or name in columns]]
        less |= len(chosen.columns) < len(some.columns)
        show(console, title, chosen, below)
    if len(certain := frames.get("least certain", pd.DataFrame())):
        _show_rows(console, certain)
    if less:
        console.print("--html has more columns, tables and pictures; --json has everything.")


def _show_rows(console: Console, rows: pd.DataFrame) -> None:
    """Print rows with long texts, one below the other."""
    console.print(Text("least certain rows\n", style="bold"))
    for row in rows.to_dict("records"):
        console.print(
            Text(
                f"{_answers(row)}uncertainty {row['uncertainty']:.3f} "
                f"at layer {row['layer']}  {row['shard']}, row {row['row']:,}"
            )
        )
        if text := row.get("text"):
            console.print(Padding(Text(text), (0, 0, 1, 4)))
    if "text" not in rows:
        console.print("--text-from INPUT shows their texts.")


def _answers(row: Mapping[Any, Any]) -> str:
    """The answers of a row, by question if there are several."""
    said = []
    for name in row:
        if str(name).endswith("label"):
            question = str(name).removesuffix("label")
            score = row.get(f"{question}score")
            sure = "" if pd.isna(score) else f"score {score:.3f}, "
            begins = f"{question.removesuffix('_')}: " if question else ""
            said.append(f"{begins}{row[name]}  {sure}")
    return "".join(said)


def show(console: Console, title: str, frame: pd.DataFrame, below: str | None = None) -> None:
    """Print a data frame as a table, and a line below it."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for name in frame.columns:
        numeric = pd.api.types.is_numeric_dtype(frame[name])
        table.add_column(
            Text(_SHORT.get(str(name), str(name).replace("_", " "))),
            justify="right" if numeric else "left",
            overflow="fold",  # nothing is cut
            no_wrap=name == "run_id",
        )
    for row in frame.itertuples(index=False):
        table.add_row(*(Text(cell(value)) for value in row))  # not markup
    console.print(table)
    if below is not None:
        console.print(Text(f"{below}\n"))
