"""The paper's figures 3, 4 and 5 from our runs, as SVG in docs/figures; `tables` writes them."""

from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import ROOT

matplotlib.rcParams.update(
    {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": "fastbert",  # the same picture is the same file
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.3,
    }
)

FIGURES = ROOT / "docs" / "figures"
#: The set of figures 4 and 5.
CLOSE_UP = "ag_news"
#: Speeds whose exit layers are shown, as in figure 5.
EXIT_SPEEDS = (0.8, 0.5, 0.3)


def _save(figure: Figure, name: str) -> None:
    FIGURES.mkdir(exist_ok=True)
    figure.savefig(FIGURES / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight")


def _panels(count: int, height: float = 2.8) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(3.3 * count, height), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def speeds(results: dict[str, dict[str, Any]]) -> None:
    """Figure 3: accuracy and FLOPs over the speed, and one over the other; a line per set."""
    figure, (accuracy, speedup, trade) = _panels(3, 3.4)
    for name, result in results.items():
        x = [row["speed"] for row in result["speeds"]]
        y = [100 * row["accuracy"] for row in result["speeds"]]
        z = [row["flops_speedup"] for row in result["speeds"]]
        accuracy.plot(x, y, marker=".", label=name)
        speedup.plot(x, z, marker=".")
        trade.plot(z, y, marker=".")
    accuracy.set(xlabel="speed", ylabel="accuracy, %")
    speedup.set(xlabel="speed", ylabel="times fewer FLOPs")
    trade.set(xlabel="times fewer FLOPs", ylabel="accuracy, %")
    figure.legend(loc="outside lower center", ncols=6, frameon=False)
    _save(figure, "speeds")


def certainty(result: dict[str, Any]) -> None:
    """Figure 4: accuracy by tenths of the uncertainty, at the first, middle and last layer."""
    bins = dict(
        zip((row["layers"] for row in result["fixed"]), result["certainty_bins"], strict=True)
    )
    layers = (1, result["layers"] // 2, result["layers"])
    figure, panels = _panels(len(layers))
    for panel, layer in zip(panels, layers, strict=True):
        rows, shares = zip(*bins[layer], strict=True)
        middles = [(i + 0.5) / len(rows) for i in range(len(rows))]
        panel.bar(middles, [100 * share for share in shares], width=0.08)
        panel.set(xlabel="uncertainty", title=f"layer {layer}", ylim=(0, 105))
        for x, share, count in zip(middles, shares, rows, strict=True):
            panel.text(
                x, 100 * share, f" {count}", ha="center", va="bottom", fontsize=6, rotation=90
            )
    panels[0].set_ylabel("accuracy, %")
    _save(figure, "certainty")


def exits(result: dict[str, Any]) -> None:
    """Figure 5: the layers at which rows leave."""
    figure, panels = _panels(len(EXIT_SPEEDS))
    rows = {row["speed"]: row for row in result["speeds"]}
    for panel, speed in zip(panels, EXIT_SPEEDS, strict=True):
        row = rows[speed]
        layers = [each["layers"] for each in result["fixed"]]
        panel.bar(layers, [100 * count / sum(row["exits"]) for count in row["exits"]])
        panel.set(
            xlabel="layer", title=f"speed {speed}: {row['mean_layers']:.2f} layers", ylim=(0, 100)
        )
    panels[0].set_ylabel("rows, %")
    _save(figure, "exits")
