"""The section about a GPU, of docs/benchmarks.md: its numbers, once there are some."""

from typing import Any

from benchmarks import RESULTS
from benchmarks.pages.markdown import judged, load, table

#: What a card is to reach: the share of its peak at full depth, by the most tokens of a row and
#: whether rows differ in length; what rows gain on the clock of what they do in FLOPs; fp8 : bf16.
PEAK = {(128, False): 0.60, (128, True): 0.57, (512, False): 0.58}
REALISED, EIGHT_BITS = 0.90, 1.25

NONE = """## On a GPU

Not measured: no GPU was available. `benchmarks/speed/gpu.py` takes five minutes on one card, without Ray and DuckDB, and writes its results as
it goes. It has been tried only on a CPU:

```
python -m benchmarks.speed.gpu --model models/ag_news --texts ag_news/train.parquet --output benchmarks/results/gpu.json
```

It compares

* a trained model on the card with the same model on the CPU (labels, exit layers, scores);
* rows alone with rows in a batch;
* BERT-base at 128, 512 and mixed lengths with a padded loop, the official algorithm, the device's matrix peak and the FLOPs;
* fp8 with bf16;
* the speed of labelling a corpus with that of tokenizing it.

Until then, nothing in this project claims a GPU figure.
"""


def section() -> str:
    """All that was measured."""
    if not (RESULTS / "gpu.json").exists():
        return NONE
    found = load("gpu")
    parts = [
        f"## On a GPU\n\n{found['device']}, torch {found['machine']['torch']}. BERT-base, bf16.\n",
        f"```\n{found['program']}\n```\n",
        _throughput([run for run in found["throughput"] if "failed" not in run]),
    ]
    sections = ("answers", "company", "labelling", "feeding")
    if all("failed" not in found.get(name, {"failed": ""}) for name in sections):
        parts += [_answers(found), _labelling(found)]
    off = [name for name, works in found["kernels"].items() if not works]
    parts.append(f"Kernels that did not work there: {', '.join(off) or 'none'}.\n")
    return "\n".join(parts)


def _throughput(runs: list[dict[str, Any]]) -> str:
    names = ["tokens", "full depth, rows/s", "by the peak", "", "early, rows/s", "clock by FLOPs", "",
             ": padded loop", ": the same, sorted", ": official algorithm", "fp8 : bf16, full depth", ""]  # fmt: skip
    rows = []
    for run in runs:
        least, most = run["tokens"][0], run["tokens"][-1]
        speed, eight = run["rows_per_second"], run.get("full depth, fp8 : bf16")
        share = run["share_of_peak"]["full depth"]
        rows.append(
            [f"{least} to {most}" if least < most else most, f"{speed['full depth']:,.0f}", share]
            + [judged(share, PEAK[most, least < most]), f"{speed['early']:,.0f}"]
            + [run["realised_by_ideal"], judged(run["realised_by_ideal"], REALISED)]
            + [run["early : padded loop"], run["early : padded loop, sorted"]]
            + [run["early : official algorithm"]]
            + (["not multiplied", ""] if eight is None else [eight, judged(eight, EIGHT_BITS)])
        )
    return table(names, rows) + "\n"


def _answers(found: dict[str, Any]) -> str:
    compared = {
        f"{name} : CPU fp32": found["answers"].get(name) for name in ("fp32", "bf16", "fp8")
    }
    compared |= {
        "bf16, a row alone : in a slice": found["company"]["alone"],
        "bf16, a row in another slice : in one": found["company"]["in other slices"],
    }
    rows = [
        [name, *(each[of] for of in ("same_label", "same_exit", "bitwise"))]
        + [f"{each['largest_score_difference']:.1e}"]
        for name, each in compared.items()
        if each
    ]
    names = [
        "AG News' model",
        "equal labels",
        "equal exits",
        "to the bit",
        "scores differ by at most",
    ]
    alone = found["company"]["attention is the same to the bit"]
    kernel = "there is no such kernel here" if alone is None else ("yes" if alone else "no")
    return (
        table(names, rows)
        + f"\n\nAttention of a row alone and in a batch equal to the bit: {kernel}.\n"
    )


def _labelling(found: dict[str, Any]) -> str:
    labelling, feeding = found["labelling"], found["feeding"]
    speed = labelling["rows_per_second"]
    share = labelling["host_share"]
    return (
        f"AG News, {labelling['rows']:,} rows of {labelling['mean_tokens']} tokens, at the 1 % point: "
        f"{speed['at 1 %']:,} rows/s, {labelling['speedup']} times full depth's "
        f"({labelling['flops_speedup']}x in FLOPs); the card waits for the host in "
        f"{'an unknown share' if share is None else f'{share:.0%}'} of the time. {feeding['cores']} "
        f"cores tokenize {feeding['rows_per_second_of_all']:,} rows/s "
        f"({feeding['rows_per_second_of_one']:,} one of them"
        f"{', by nanotoken' if feeding['nanotoken'] else ''}).\n"
    )
