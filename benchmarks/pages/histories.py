"""The sections of docs/benchmarks.md about the start of runs, and about long histories."""

from statistics import median
from typing import Any

from benchmarks.pages.performance import judged, load, table


def start_section() -> str:
    """To the first labelled slice, and with nothing to do."""
    found = load("start")
    rows = [[each["of"], each["to"], each["ratio"], judged(each["ratio"], each["claimed"], True)]
            for each in found["hypotheses"]]  # fmt: skip
    times = found["medians"]["ray"] / found["medians"]["local"]
    return f"""
## The start

Seconds of the whole command with nothing to do, and of Python that imports pyarrow.parquet, duckdb
and fsspec; seconds to the first labelled slice on one machine, by the local executor and by release
831b513, which started a Ray of its own. With `--executor ray` it takes {times:.1f} times as long as
without. Medians of runs in turns.

{table(["", "against", "ratio", ""], rows)}

```
{found["command"]}
```
"""


def history_section() -> str:
    """What a run with nothing to do, a plan and a report cost."""
    found = load("history")

    def middle(rounds: list[dict[str, Any]], name: str) -> float:
        return median(each[name] for each in rounds)

    nothing, reports, planned = found["nothing_to_do"], found["report"], found["planned"]
    rows = [
        ["a run with nothing to do: seconds", middle(nothing, "seconds"), 60],
        ["MB at its peak", middle(nothing, "peak_megabytes"), 1500],
        ["a report on the terminal: seconds", middle(reports, "seconds"), 10],
        ["MB at its peak", middle(reports, "peak_megabytes"), None],
        [f"a plan over {found['planned_slices']:,} slices: seconds", planned["seconds"], 600],
        ["MB at its peak", planned["peak_megabytes"], 4000],
        ["a run with nothing to do over 100 slices : imports", found["times_as_long"], 3],
    ]
    if asked := found["on_s3"]:
        most = 20 + asked["of"]["ListObjectsV2"] + asked["manifests"]
        rows.append([f"requests over {asked['slices']:,} slices on S3", asked["requests"], most])
    shown = [
        [n, f"{value:,}", judged(value, most, True) if most else ""] for n, value, most in rows
    ]
    sizes = f"{found['manifest_megabytes']:.0f} MB, and {found['statistics_megabytes']:.0f} MB of"
    return f"""
## Long histories

Over {found["slices"]:,} slices in {found["manifests"]} manifests ({sizes} statistics) on a local
disk, made up from a thousand records in turns, which compress better than others; the middle of
{len(nothing)} rounds. The larger plan's listing of `table/` and its shards are made up in memory.
Imports are `import pyarrow.parquet, duckdb, fsspec`, in turns with the runs.

{table(["", "", ""], shown)}

```
{found["program"]}
```
"""
