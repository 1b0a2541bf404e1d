"""The report's pictures: SVG for the inside of a page, in colours that follow its light or dark.

Each takes a data frame that `questions` describes. Nothing in them refers to anything outside.
"""

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

#: Stand in for colours until the SVG is written, where CSS takes over.
_INK, _FAINT = "#fe0100", "#fe0200"
_SERIES = "#fe03{:02x}"
#: About as wide as a phone, in inches of 72 px: text is as large as that of the page.
_SIZE = (5.4, 2.7)
_MOST_TICKS = 7

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
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def exit_layers(frame: pd.DataFrame) -> str:
    """Rows by the layer that answered them."""
    figure, axes = _axes()
    colors = [_color(i) for i in range(len(frame))]
    bars = axes.bar(frame["layer"], frame["percent"], color=colors, tick_label=frame["layer"])
    axes.bar_label(bars, [f"{value:.1f}" for value in frame["percent"]], fontsize=8)
    axes.set(xlabel="exit layer", ylabel="% of rows")
    return _svg(figure, "Share of rows by exit layer", len(frame))


def uncertainties(frame: pd.DataFrame) -> str:
    """Rows by uncertainty when they left, a colour per layer."""
    figure, axes = _axes()
    layers = sorted(frame["layer"].unique())
    below = np.zeros(20)
    for i, layer in enumerate(layers):
        mine = frame[frame["layer"] == layer]
        counts = np.zeros(20)
        counts[(mine["from_uncertainty"] * 20).round().astype(int)] = mine["rows"]
        axes.bar((np.arange(20) + 0.5) / 20, counts, 0.05, below, color=_color(i), label=layer)
        below += counts
    axes.set(xlabel="uncertainty at the exit", ylabel="rows", xlim=(0, 1))
    _legend(axes, "layer")
    return _svg(figure, "Rows by uncertainty and exit layer", len(layers))


def labels(frame: pd.DataFrame) -> str:
    """The most frequent labels."""
    top = frame.head(15).iloc[::-1]
    figure, axes = _axes(0.6 + 0.2 * len(top))
    names = [_short(label) for label in top["label"]]
    bars = axes.barh(np.arange(len(top)), top["percent"], color=_color(0), tick_label=names)
    axes.bar_label(bars, [f" {value:.1f}" for value in top["percent"]], fontsize=8)
    axes.grid(False)
    axes.set(xlabel="% of rows")
    return _svg(figure, "Share of rows by label", 1)


def stacked(frame: pd.DataFrame, key: str, value: str, unit: str, most: int = 12) -> str:
    """A bar per run, stacked by `key`: columns run_id, started_at, `key` and `value`."""
    runs = _runs(frame)
    table = frame.pivot_table(value, "run_id", key, "sum", fill_value=0).loc[runs["run_id"]]
    if not pd.api.types.is_numeric_dtype(frame[key]):  # layers keep their order
        table = table[table.sum().sort_values(ascending=False).index]
    figure, axes = _axes()
    edges, below = np.arange(len(table) + 1) - 0.5, np.zeros(len(table))
    shown = list(table.columns if key == "layer" else table.columns[:most])
    for i, name in enumerate(shown):  # one shape each: a year of bars would make a heavy page
        above = below + table[name].to_numpy(float)
        axes.stairs(above, edges, baseline=below, fill=True, color=_color(i), label=_short(name))
        below = above
    _run_ticks(axes, runs)
    axes.set(ylabel=unit)
    _legend(axes, key)
    return _svg(figure, f"{unit} by run and {key}", len(shown))


def lines(frame: pd.DataFrame, values: dict[str, str], unit: str) -> str:
    """A line over runs for each column of `values`, which gives it a name."""
    figure, axes = _axes()
    for i, (column, name) in enumerate(values.items()):
        axes.plot(np.arange(len(frame)), frame[column].astype(float), "o-", color=_color(i),
                  markersize=3, label=name)  # fmt: skip
    axes.set_ylim(bottom=0)
    _run_ticks(axes, frame)
    axes.set(ylabel=unit)
    if len(values) > 1:
        _legend(axes, "")
    return _svg(figure, f"{unit} by run", len(values))


def agreement(frame: pd.DataFrame) -> str:
    """Audited agreement with full depth, its interval, and what was promised."""
    figure, axes = _axes()
    x, values = np.arange(len(frame)), frame["agreement_percent"].astype(float)
    spread = np.array([values - frame["lower_percent"].astype(float),
                       frame["upper_percent"].astype(float) - values]).clip(0)  # fmt: skip
    axes.errorbar(x, values, spread, fmt="o", color=_color(0), markersize=3, label="audited")
    promised = frame["promised_percent"].astype(float)
    if promised.notna().any():
        line = {"drawstyle": "steps-mid"} if len(x) > 1 else {"marker": "_", "markersize": 40}
        axes.plot(x, promised, color=_color(1), label="promised", **line)
    _run_ticks(axes, frame)
    axes.set(ylabel="% that agree with full depth")
    _legend(axes, "")
    return _svg(figure, "Agreement with full depth by run", 2)


def _axes(height: float = _SIZE[1]) -> tuple[Figure, Axes]:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_SIZE[0], height), layout="constrained")
        return figure, figure.subplots()


def _color(i: int) -> str:
    return _SERIES.format(i)


def _short(name: Any) -> str:
    text = str(name) if len(str(name)) <= 24 else f"{str(name)[:23]}…"
    # A dollar would begin a formula; what begins with an underscore has no place in a legend.
    return "\u200b" + text.replace("$", r"\$")


def _runs(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.drop_duplicates("run_id").sort_values(["started_at", "run_id"])


def _run_ticks(axes: Axes, runs: pd.DataFrame) -> None:
    """Dates below some of the runs."""
    every = max(1, -(-len(runs) // _MOST_TICKS))
    places = np.arange(0, len(runs), every)
    starts = runs["started_at"].iloc[places]
    axes.set_xticks(places, ["?" if pd.isna(at) else f"{at:%m-%d}" for at in starts])
    axes.set_xlim(-0.6, max(len(runs), 4) - 0.4)


def _legend(axes: Axes, title: str) -> None:
    with matplotlib.rc_context(_STYLE):
        axes.legend(title=title, loc="upper left", bbox_to_anchor=(1, 1), handlelength=1)


def _svg(figure: Figure, title: str, series: int) -> str:
    """The picture as an element of a page."""
    buffer = io.StringIO()
    # Ids are made of the salt, and are one space for all pictures of a page.
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": title}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Title": title})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg [^>]*?)width="[^"]*" height="[^"]*"', r'\1role="img"', text, count=1,
                  flags=re.DOTALL)  # fmt: skip
    text = text.replace(_INK, "currentColor").replace(_FAINT, "light-dark(#ddd, #444)")
    for i, color in enumerate(_palette(series)):
        text = text.replace(_color(i), color)
    return text


def _palette(n: int) -> Sequence[str]:
    """Colours in an order that shows, each for light and for dark."""
    places = np.linspace(0, 1, n) if n > 1 else np.array([0.3])
    light, dark = colormaps["viridis"](places * 0.85), colormaps["viridis"](0.3 + places * 0.65)
    return [f"light-dark({to_hex(a)}, {to_hex(b)})" for a, b in zip(light, dark, strict=True)]
