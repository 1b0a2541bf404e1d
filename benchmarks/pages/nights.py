"""The sections of docs/benchmarks.md about the job: its nights, many of them, and broken ones."""

from statistics import median
from typing import Any

from benchmarks.pages.markdown import judged, load, table, where


def pipeline_section() -> str:
    """The whole job, and its scale."""
    job, scale = load("job"), load("scale")
    sizes = scale["overhead"]["sizes"]
    rows = [
        [f"{s['slices']:,}", f"{sum(s['milliseconds_per_slice']['job'].values()):.1f}"]
        + [
            f"{s['ratios']['job : empty plan']:.2f}",
            s["ratios"].get("job : empty plan, tuned as the job", ""),
        ]
        for s in sizes
    ]
    worst = max(s["ratios"]["job : empty plan"] for s in sizes)
    # Were nothing of the overhead hidden behind the device.
    seconds = sum(sizes[-1]["milliseconds_per_slice"]["job"].values()) / 1e3
    slices = {rate: round(seconds / 0.02 * rate) for rate in (1_000, 10_000, 50_000, 400_000)}
    memory = scale["memory"]
    first, last, peak = memory["runs"][0], memory["runs"][-1], memory["peak, largest : smallest"]
    return f"""## The job

The job runs at the model's default point, and is timed from the first commit to the last: start-up is not counted. All ratios
are of rows per second.

| the job, compared with | ratio | target |
|---|---|---|
| the engine with tokenizing | {job["job : engine with tokenizing"]:.3f} | {judged(job["job : engine with tokenizing"], 0.95)} |
| Ray Data's own recipe for text classification (`read_parquet`, a class with `transformers.pipeline`, `write_parquet`) | {job["job : recipe"]:.1f} | |
| the same job on Ray; the job itself has the local executor, on this one machine | {job["job : job on Ray"]:.2f} | |

The engine is one process that reads, tokenizes and classifies one slice after the other, with as many threads as the job's replica
({job["replica_threads"]}). The job commits as well. The replica was busy {100 * job["replica_busy"]:.0f} % of the time.

```
{job["command"]}
```

### Cost of a slice without its model

Plan, scheduling and commit (local disk, synced) of the real job, with stages that do nothing. They are compared with an empty
three-stage Ray Data plan of as many one-row blocks: once written as in Ray's documentation, and once tuned as the job is.

{table(["slices", "ms per slice", "by the empty plan", "by the tuned empty plan"], rows)}

The target is at most 1.2 times the empty plan: {judged(worst, 1.2, True)} (worst {worst:.2f}). A slice at the largest size costs
{scale["overhead"]["per slice, largest size : smallest"]:.2f} times one at the smallest. To keep this cost under 2 % of a replica's time, a slice needs
{", ".join(f"{n:,} rows at {rate:,} rows/s" for rate, n in slices.items())}.

### Memory

The peak of driver and children together on one machine, {last["rows"]:,} rows : {first["rows"]:,} rows = {peak:.3f} ({judged(peak, 1.1, True)}):
{last["peak_mib"]:,.0f} MiB and {first["peak_mib"]:,.0f} MiB. The model is tiny: the memory of a real one would hide growth more.

```
python -m benchmarks.speed.scale overhead --work work --output benchmarks/results/scale.json
python -m benchmarks.speed.scale memory --work work --output benchmarks/results/scale.json
```
"""


def chaos_section() -> str:
    """What was killed, and what came of it."""
    stores = ("local", "swift")
    runs = {(store, on): found for store in stores for on, found in load(f"chaos_{store}").items()}
    rows = []
    for (store, executor), found in runs.items():
        kills = ", ".join(f"{n} {kind}s" for kind, n in sorted(found["kills"].items()))
        wrong = len(found["failed_checks"] + found["findings"])
        faults = sum(n for k, n in (found.get("proxy") or {}).items() if k != "connections")
        rows.append(
            [store, executor, f"{found['total_kills']} ({kills})", found["runs"], found["passes"]]
            + [faults, found["corpus"]["rows"] * found["passes"], f"{found['files_read']:,}", wrong]
        )
    moments = load("same_second")
    outcomes = [
        [
            store,
            found["tries"],
            ", ".join(f"{n} x {k}" for k, n in found["exit_codes"].items()),
            found["tables_with_each_row_once"],
        ]
        for store, found in moments["stores"].items()
    ]
    names = ["store", "executor", "killed", "runs", "tables", "store faults", "rows compared", "files read", "wrong"]  # fmt: skip
    commands = "\n".join([*(found["command"] for found in runs.values()), moments["command"]])
    return f"""## Killed at random

Runs are started again and again until a table is done, while their processes are killed with SIGKILL. Then each row is compared
with that of an undisturbed run, and ledger and statistics with the rows. [operations.md](operations.md#why-it-holds) explains why
nothing is wrong.

```
{commands}
```

{table(names, rows)}

Two jobs are started on one output in the same moment. Exit code 0 is done, 4 is refused:

{table(["store", "tries", "exit codes", "tables with each row once"], outcomes)}
"""


def reporting_section() -> str:
    """Reports of a large output."""
    found = load("reporting")
    middle = {
        name: sorted(r[name] for r in found["rounds"])[len(found["rounds"]) // 2]
        for name in found["rounds"][0]
    }
    first, peak, page = (
        middle[name] for name in ("seconds_to_the_first_table", "peak_megabytes", "html_megabytes")
    )
    return f"""## Reports

Reports of {found["slices"]:,} slices in {found["runs"]} runs ({found["statistics_megabytes"]:.0f} MB of statistics), on a local disk; the median of {len(found["rounds"])} rounds. Much of the
time to the first table is Python importing torch, which the package needs and the report does not.

| | | |
|---|---|---|
| seconds to the first table | {first:.1f} | {judged(first, 5, True)} |
| MB at the peak | {peak:,} | {judged(peak, 1000, True)} |
| MB of HTML | {page:.1f} | {judged(page, 2, True)} |

```
{found["program"]}
```
"""


def month_section() -> str:
    """The simulated month."""
    found = load("nightly")

    def percent(share: float | None) -> str:
        return "" if share is None else f"{100 * share:.1f} %"

    rows = [
        [night["night"], night["event"] or "", f"{night['rows_due']:,}",
         "" if "rows" not in night else f"{night['rows']:,}",
         night.get("files_left_alone", ""),
         "" if night.get("mean_exit_layer") is None else f"{night['mean_exit_layer']:.2f}",
         percent(night.get("audit_agreement")), percent(night.get("exit_drift")),
         len(night.get("alarms") or []) or "", night.get("exit_code", ""),
         night.get("check", "")]
        for night in found["nights"]
    ]  # fmt: skip
    claims = "\n".join(
        f"* {claim}: {'holds' if holds else '**does not hold**'}"
        for claim, holds in found["claims"].items()
    )
    minutes = judged(found["minutes"], 15, True)
    claims += f"\n* all of it in minutes: {found['minutes']:.1f} ({minutes})"
    totals = found["rows_and_flops"]
    sums = "; ".join(f"{name} {n:,} rows, {flops:,} FLOPs" for name, (n, flops) in totals.items())
    false = ", ".join(found["nights_with_a_false_alarm"]) or "none"
    names = ["night", "what happens", "rows due", "labelled", "files left alone", "mean layer",
             "audit agrees", "exit drift", "alarms", "exit code", "check"]  # fmt: skip
    names_of_recipes = ["checkpoint", "operating point", "runs", "rows in the table", "audited", "agree",
                        "95 % interval", "promised", "more runs to decide"]  # fmt: skip
    recipes = [
        [each["checkpoint"], each["operating_point"], each["runs"], f"{each['rows']:,}", f"{each['audited']:,}",
         f"{each['agreement_percent']:.2f} %",
         f"{each['lower_percent']:.2f} to {each['upper_percent']:.2f} %",
         f"{each['promised_percent']:g} %",
         "" if each["more_runs"] is None else f"{each['more_runs']:.0f}"]
        for each in found["recipes"]
    ]  # fmt: skip
    return f"""## A simulated month

Thirty nights with two new shards each, on one machine without Ray. The model is trained and calibrated (at most 3 % other labels)
on made-up tickets. All of it takes {found["minutes"]:.0f} minutes, {found["minutes_of_training"]:.0f} of them for training two models, on
{where(found["machine"])}.

```
{found["program"]}
```

{claims}

* Nights with an alarm although nothing was wrong: {false}.
* The killed run of night 12 had committed {found["rows_committed_by_the_killed_run"]:,} rows, which night 14 did not repeat.
* Sums (the first two count rows that were labelled again): {sums}.

What the report shows for the two models, with the audits of all their nights:

{table(names_of_recipes, recipes)}

{table(names, rows)}
"""


def start_section() -> str:
    """To the first labelled slice, and with nothing to do."""
    found = load("start")
    rows = [[each["of"], each["to"], each["ratio"], judged(each["ratio"], each["claimed"], True)]
            for each in found["hypotheses"]]  # fmt: skip
    times = found["medians"]["ray"] / found["medians"]["local"]
    return f"""## The start

Ratios of seconds, medians of runs in turns:

* *nothing to do*: the whole command with nothing to do, compared with Python that imports
  pyarrow.parquet, duckdb and fsspec;
* *local*: to the first labelled slice on one machine, with the local executor, compared with commit
  831b513, which started a Ray of its own.

With `--executor ray` it takes {times:.1f} times as long as without.

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
    return f"""## Long histories

{found["slices"]:,} slices in {found["manifests"]} manifests ({sizes} statistics) on a local disk. They
are made from a thousand records in turns, which compress better than real ones. Numbers are medians of
{len(nothing)} rounds. For the larger plan, the listing of `table/` and the shards are created in memory.
Imports are `import pyarrow.parquet, duckdb, fsspec`, in turns with the runs.

{table(["", "", ""], shown)}

```
{found["program"]}
```
"""
