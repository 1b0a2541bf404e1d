"""The report's charts: SVG elements for a page, with colours for light and dark mode.

`svg` makes them from drawings, functions of a data frame that `questions` describes. They refer to
no other files.
"""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from pipelines.reports.cells import spread, summed

#: Placeholders for colours, replaced by CSS when the SVG is written.
_INK, _FAINT = "#fe0100", "#fe0200"
_SERIES = [f"#fe03{i:02x}" for i in range(256)]
#: About the width of a phone, in inches of 72 px: text is as large as that of the page.
_SIZE = (5.4, 2.7)
_MOST_TICKS = 7
#: Names in a bar per run; the others are summed.
_MOST_STACKED = 12

#: A chart's title, and its number of colours.
Said = tuple[str, int]
Drawing = Callable[[Axes, pd.DataFrame], Said]

_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _FAINT,
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=_SERIES),
    "lines.markersize": 3,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def svg(draw: Drawing, frame: pd.DataFrame) -> str:
    """The chart as an element of a page."""
    buffer = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        title, colors = draw(figure.subplots(), frame)
        # Ids are made from the salt, and share one namespace with all charts of a page.
        matplotlib.rcParams["svg.hashsalt"] = title
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Title": title})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg [^>]*?)width="[^"]*" height="[^"]*"', r'\1role="img"', text, count=1,
                  flags=re.DOTALL)  # fmt: skip
    text = text.replace(_INK, "currentColor").replace(_FAINT, "light-dark(#ddd, #444)")
    for stand_in, color in zip(_SERIES, _palette(colors), strict=False):
        text = text.replace(stand_in, color)
    return text


def exit_layers(axes: Axes, frame: pd.DataFrame) -> Said:
    """Rows by the layer that answered them."""
    colors, layers = _SERIES[: len(frame)], frame["layer"]
    bars = axes.bar(layers, frame["percent"], color=colors, tick_label=layers)
    axes.bar_label(bars, [f"{value:.1f}" for value in frame["percent"]], fontsize=8)
    axes.margins(y=0.12)  # room for the labels
    axes.set(xlabel="exit layer", ylabel="% of rows")
    return "Share of rows by exit layer", len(frame)


def uncertainties(axes: Axes, frame: pd.DataFrame) -> Said:
    """Rows by uncertainty at their exit, a colour per layer."""
    table = spread(frame, "rows", "from_uncertainty", "layer")
    below = np.zeros(len(table))
    for layer in table:
        axes.bar(table.index, table[layer], 0.05, below, align="edge", label=layer)
        below += table[layer]
    axes.set(xlabel="uncertainty at the exit", ylabel="rows", xlim=(0, 1))
    _legend(axes, "layer")
    return "Rows by uncertainty and exit layer", len(table.columns)


def labels(axes: Axes, frame: pd.DataFrame) -> Said:
    """The most frequent labels."""
    top = summed(frame, "label").iloc[::-1]
    axes.figure.set(figheight=0.6 + 0.2 * len(top))
    names = [_short(label) for label in top["label"]]
    bars = axes.barh(np.arange(len(top)), top["percent"], tick_label=names)
    axes.bar_label(bars, [f" {value:.1f}" for value in top["percent"]], fontsize=8)
    axes.margins(x=0.12)
    axes.grid(False)
    axes.set(xlabel="% of rows")
    return "Share of rows by label", 1


def stacked(axes: Axes, frame: pd.DataFrame, key: str, value: str, unit: str) -> Said:
    """A bar per run, stacked by `key`: columns run_id, started_at, `key` and `value`."""
    runs = frame.drop_duplicates("run_id").sort_values(["started_at", "run_id"])
    table = spread(frame, value, "run_id", key, _MOST_STACKED).loc[runs["run_id"]]
    edges, below = np.arange(len(table) + 1) - 0.5, np.zeros(len(table))
    for name in table:  # one shape per name, because a year of bars would make a large page
        above = below + table[name].to_numpy(float)
        axes.stairs(above, edges, baseline=below, fill=True, label=_short(name))
        below = above
    _by_run(axes, runs, unit)
    _legend(axes, key)
    return f"{unit} by run and {key}", len(table.columns)


def lines(axes: Axes, frame: pd.DataFrame, values: dict[str, str], unit: str) -> Said:
    """A line over runs for each column of `values`, which maps columns to names."""
    for column, name in values.items():
        axes.plot(np.arange(len(frame)), frame[column].astype(float), "o-", label=name)
    top = float(np.nanmax(frame[[*values]].astype(float).to_numpy(), initial=0.0)) or 1.0
    axes.set_ylim(-0.03 * top, 1.08 * top)  # zeros are also inside
    _by_run(axes, frame, unit)
    if len(values) > 1:
        _legend(axes, "")
    return f"{unit} by run", len(values)


def spending(axes: Axes, frame: pd.DataFrame) -> Said:
    """Money if prices are known, otherwise seconds."""
    unit = "price" if frame["price_per_million"].notna().any() else "seconds"
    values = {f"{unit}_per_million": "spent", f"full_depth_{unit}_per_million": "full depth"}
    return lines(axes, frame, values, f"{unit} per million rows")


def agreement(axes: Axes, frame: pd.DataFrame) -> Said:
    """Audited agreement with full depth by run and of all runs so far, intervals, promise."""
    x, values = np.arange(len(frame)), frame["agreement_percent"].astype(float)
    spread = np.array([values - frame["lower_percent"].astype(float),
                       frame["upper_percent"].astype(float) - values]).clip(0)  # fmt: skip
    axes.errorbar(x, values, spread, fmt="o", label="run")
    if len(x) > 1:
        low, high = (frame[f"all_{side}_percent"].astype(float) for side in ("lower", "upper"))
        axes.fill_between(x, low, high, alpha=0.25, color=_SERIES[1], step="mid", label="all runs")
    promised = frame["promised_percent"].astype(float)
    if promised.notna().any():
        line = {"drawstyle": "steps-mid"} if len(x) > 1 else {"marker": "_", "markersize": 40}
        axes.plot(x, promised, color=_SERIES[2], label="promised", **line)
    _by_run(axes, frame, "% that agree with full depth")
    _legend(axes, "")
    return "Agreement with full depth by run", 3


def _short(name: Any) -> str:
    text = str(name) if len(str(name)) <= 24 else f"{str(name)[:23]}…"
    # A dollar would begin a formula; names with a leading underscore are omitted from legends.
    return "\u200b" + text.replace("$", r"\$")


def _by_run(axes: Axes, runs: pd.DataFrame, unit: str) -> None:
    """Dates below a few of the runs."""
    places = np.arange(0, len(runs), max(1, -(-len(runs) // _MOST_TICKS)))
    starts = runs["started_at"].iloc[places]
    axes.set_xticks(places, ["?" if pd.isna(at) else f"{at:%m-%d}" for at in starts])
    axes.set(ylabel=unit, xlim=(-0.6, max(len(runs), 4) - 0.4))


def _legend(axes: Axes, title: str) -> None:
    axes.legend(title=title, loc="upper left", bbox_to_anchor=(1, 1), handlelength=1)


def _palette(n: int) -> Sequence[str]:
    """Colours that show their order, each for light and dark mode."""
    places = np.linspace(0, 1, n) if n > 1 else np.array([0.3])
    light, dark = colormaps["viridis"](places * 0.85), colormaps["viridis"](0.3 + places * 0.65)
    return [f"light-dark({to_hex(a)}, {to_hex(b)})" for a, b in zip(light, dark, strict=True)]
