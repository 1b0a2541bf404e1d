"""The page docs/scale.md: ten billion rows on 64 GPUs, reckoned from what was measured."""

from math import ceil, log
from typing import Any

from benchmarks.pages.markdown import load, table, where

#: What is to be labelled, in files of so many rows, and by how many GPUs; rows a second of a GPU,
#: which are no measurements.
ROWS, SHARD_ROWS, GPUS, RATES = 10**10, 10**6, 64, (10_000, 50_000, 200_000)
SLICE_ROWS = (16_384, 100_000, 500_000)
#: Dollars for a request, by S3's list prices of us-east-1 in November 2026. Removing is free.
PRICES = {"PutObject": 5e-6, "ListObjectsV2": 5e-6, "GetObject": 4e-7, "HeadObject": 4e-7}
PAGE_OF_PRICES = "https://aws.amazon.com/s3/pricing/"
#: Seconds that a store takes to answer, and requests under way at a time, as
#: pipelines/output/storage.py has it.
LATENCY, AT_ONCE = 0.1, 32
CORES = (4, 16, 64)
_NAMES = {"HeadObject": "HEAD", "GetObject": "GET", "PutObject": "PUT", "DeleteObject": "DELETE",
          "ListObjectsV2": "LIST"}  # fmt: skip


def price(requests: dict[str, float]) -> float:
    """Dollars."""
    return sum(n * PRICES.get(kind.split()[0], 0) for kind, n in requests.items())


def asked(requests: dict[str, float], place: str) -> str:
    """The requests to input or output."""
    mine = {kind.split()[0]: n for kind, n in requests.items() if kind.endswith(place)}
    return ", ".join(f"{mine[kind]:g} {name}" for kind, name in _NAMES.items() if kind in mine)


def duration(seconds: float) -> str:
    """In the unit that one would say."""
    for unit, size in (("h", 3600), ("min", 60), ("s", 1)):
        if (n := seconds / size) >= (1 if unit == "s" else 1.95):
            return f"{n:,.1f} {unit}" if n < 9.95 else f"{n:,.0f} {unit}"
    return f"{1e3 * seconds:,.1f} ms" if seconds >= 1e-3 else f"{1e6 * seconds:,.1f} µs"


def gigabytes(night: dict[str, Any]) -> float:
    """What it takes beside what its imports hold."""
    return float(night["peak_megabytes"] - night["before_megabytes"]) / 1024


class Costs:
    """What costs what, in seconds, kilobytes and requests."""

    def __init__(self) -> None:
        self.found, self.before = load("at_scale"), load("at_scale_before")
        self.requests = self.found["requests"]["requests"]
        self.client = self.found["client"]
        self.reader = load("feeding")["rows_per_second"]["read bag"]
        overhead = load("scale")["overhead"]["sizes"][-1]["milliseconds_per_slice"]["job"]
        self.slice = sum(overhead.values()) / 1e3
        self.footer, self.listed, self.removed, self.read_record = (
            1e-6 * self.client[name]["microseconds"]
            for name in ("footer", "input listed", "record removed", "record read")
        )
        self.object_kilobytes = max(
            self.client[name]["bytes"] for name in ("input listed", "output listed")
        ) / 1024  # fmt: skip
        self.ray_kilobytes = self.found["driver"]["kilobytes_per_slice"]
        self.own = self.found["driver"]["runs"][-1]["of_its_own"] / 1e3
        self.text = {
            name: self.found["texts"][name]["rows_per_second"]["of a core"]
            for name in ("jsonl", "csv")
        }
        self.text_bytes = self.found["texts"]["csv"]["bytes_per_row"]

    @property
    def end_kilobytes(self) -> float:
        """Of a slice, at the end of a run that has labelled it."""
        return growth(self.found, "first")

    def start(self, shards: int) -> float:
        """Seconds until the shards are listed and their footers read."""
        listing = max(shards * self.listed, shards / 1000 * LATENCY)
        return listing + shards * max(self.footer, 2 * LATENCY / AT_ONCE)

    def end(self, slices: int) -> float:
        """Seconds of removing what was folded."""
        return slices * max(self.removed, LATENCY / AT_ONCE)


def growth(found: dict[str, Any], night: str) -> float:
    """Kilobytes for each further slice."""
    known = [size for size in found["nights"]["sizes"] if night in size]
    few, many = known[0], known[-1]
    slices = (many["shards"] - few["shards"]) * found["nights"]["slices_of_a_shard"]
    return (gigabytes(many[night]) - gigabytes(few[night])) * 2**20 / slices


def sizes(found: dict[str, Any]) -> str:
    """The slices of the first nights that `growth` compares."""
    nights = found["nights"]
    known = [s["shards"] * nights["slices_of_a_shard"] for s in nights["sizes"] if "first" in s]
    return f"{known[0]:,} to {known[-1]:,} slices"


def slices_of(slice_rows: int) -> int:
    """Slices do not span shards."""
    return ROWS // SHARD_ROWS * ceil(SHARD_ROWS / slice_rows)


def costs_section(costs: Costs) -> str:
    """What costs what."""
    of = costs.requests
    megabyte = costs.client["megabyte read"]  # two more requests read the footer
    megabytes = 1 / (megabyte["requests"]["GET"] - 2 / megabyte["times"])
    memory, listed = f"{costs.object_kilobytes:.1f} kB", duration(costs.listed)

    def row(what: str, name: str, time: str = "", memory: str = "", many: bool = True) -> list[str]:
        places = [asked(of[name], place) for place in ("input", "output")]
        dollars = f"${1e6 * price(of[name]):,.2f} a million" if many else f"${price(of[name]):.4f}"
        return [what, time, memory, *places, dollars]

    rows = [
        ["a row of JSON Lines, counted", duration(1 / costs.text["jsonl"]), "", "", "", ""],
        ["a row of CSV, counted", duration(1 / costs.text["csv"]), "", "", "", ""],
        ["a row, tokenized", f"none ({duration(1 / costs.reader)} of a reader)", "", "", "", ""],
        row("a Parquet shard", "shard", duration(costs.listed + costs.footer), memory),
        [
            "an object of a listing",
            listed,
            memory,
            "1/1000 LIST",
            "1/1000 LIST",
            f"${1e3 * PRICES['ListObjectsV2']:.2f} a million",
        ],
        row("a slice, on Ray", "slice", duration(costs.slice), f"{costs.ray_kilobytes:.1f} kB"),
        row("a slice of a killed run", "resumed slice", duration(costs.read_record)),
        row("a run", "run", many=False),
        row("a night with nothing to do", "night with nothing to do", many=False),
    ]
    names = ["", "the driver's time", "its memory", "asked of the input", "of the output", "price"]
    return f"""## What costs what

{table(names, rows)}

Text files are counted before they are labelled; Parquet and Arrow files say how many rows they have. Shards and labels are listed by every run, footers read by those
that label the shard. A slice takes one more GET for each {megabytes:.0f} MB that it reads, and a run renews its lock every few seconds, with a GET and a PUT. What a slice of a killed run costs, it costs the
next run. Prices are S3's for requests ([list prices of us-east-1, November 2026]({PAGE_OF_PRICES}): PUT and LIST ${1e3 * PRICES["PutObject"]:g} for a thousand, GET and HEAD ${1e3 * PRICES["GetObject"]:g},
DELETE free).

Ray's time for a slice is that of all its processes on two cores: {1 / costs.slice:.0f} slices a second. {duration(costs.own)} of it are the driver's own, which bounds what more cores can do:
{1 / costs.own:.0f} a second. While a run is at work, each slice has a record of its own, {costs.found["nights"]["bytes_of_a_record"]:,} bytes of JSON. The run's end folds them into a manifest, of {manifest_bytes(costs):.0f} bytes
a slice here, where a thousand different records come in turns."""


def manifest_bytes(costs: Costs) -> float:
    """Of a slice."""
    size = costs.found["nights"]["sizes"][-1]
    slices = size["shards"] * costs.found["nights"]["slices_of_a_shard"]
    return float(1e6 * size["manifest_megabytes"] / slices)


def nights_section(costs: Costs) -> str:
    """Simulated nights."""
    found = costs.found["nights"]
    sizes = found["sizes"]
    nights = {
        "plan": "first night, planned",
        "first": "first night, without the model",
        "nothing": "the next, nothing to do",
        "some": "the next, 1 % new",
    }
    rows, exponents = [], {}
    for size in sizes:
        row = [f"{size['shards']:,}", f"{size['shards'] * found['slices_of_a_shard']:,}"]
        for night in nights:
            known = size.get(night)
            row.append(f"{duration(known['seconds'])}, {gigabytes(known):.1f} GB" if known else "–")
        rows.append([*row, f"{size['manifests']}, {size['manifest_megabytes']:,.0f} MB"])
    for night, said in nights.items():
        known = [size for size in sizes if night in size]
        if len(known) > 1:
            few, many = known[-2:]
            times = many[night]["seconds"] / few[night]["seconds"]
            exponents[said] = log(times) / log(many["shards"] / few["shards"])
    told = ", ".join(f"{exponent:.2f} ({said})" for said, exponent in exponents.items())
    return f"""## Nights, simulated

The job itself, on shards of ten slices. The input is a store that is made up between S3's client and the network, so that listings cost the client what they cost; each
footer is parsed; records come as if slices had been labelled; manifests are on a local disk. Of the largest size no first night is labelled: its manifests were written beforehand. Memory is beside the
{sizes[0]["plan"]["before_megabytes"] / 1024:.1f} GB that the program holds, most of it torch, which a real driver does not import.

{table(["shards", "slices", *nights.values(), "manifests"], rows)}

From the second largest size to the largest, time grows with the power {told}. Not in
them: the store's answers, {LATENCY:g} s for each 1,000 objects and for each {AT_ONCE} footers twice; nor
the listing of labels that are there, {costs.object_kilobytes:.1f} kB and {duration(costs.listed)} for each."""


def example_section(costs: Costs) -> str:
    """The worked example."""
    shards = ROWS // SHARD_ROWS
    by_slices = []
    for slice_rows in SLICE_ROWS:
        slices = slices_of(slice_rows)
        memory = slices * (costs.ray_kilobytes + costs.end_kilobytes) / 2**20
        dollars = slices * price(costs.requests["slice"]) + shards * price(costs.requests["shard"])
        by_slices.append(
            [f"{slice_rows:,}", f"{slices:,}", duration(slices * costs.slice), f"{memory:.1f} GB"]
            + [duration(costs.end(slices)), f"${dollars:,.2f}"]
        )
    by_rate = []
    for rate in RATES:
        gpus = ROWS / (GPUS * rate)
        row = [f"{rate:,}", duration(gpus), f"{GPUS * rate / costs.reader:.0f}"]
        for slice_rows in SLICE_ROWS:
            slices = slices_of(slice_rows)
            whole = costs.start(shards) + max(gpus, slices * costs.slice) + costs.end(slices)
            row.append(f"{duration(whole)} ({100 * gpus / whole:.0f} %)")
        by_rate.append(row)
    names = ["rows of a slice", "slices", "the driver on Ray", "its memory, at most",
             "the run's end", "requests"]  # fmt: skip
    return f"""## Ten billion rows on {GPUS} GPUs

{shards:,} Parquet shards of {SHARD_ROWS:,} rows, and a store that answers after {LATENCY:g} s. To list them and read their footers takes {duration(costs.start(shards))}. What
follows depends on the rows of a slice:

{table(names, by_slices)}

**No GPU was measured** for this page: how many rows a second one labels is what you put in, as r. A run takes the footers' time, then the longer one of rows / ({GPUS} · r) and slices · {1e3 * costs.slice:.0f} ms,
then the end; in brackets, the share of it in which the GPUs work:

{table(["r, rows/s", "the GPUs", "cores to read", *(f"{n:,} a slice" for n in SLICE_ROWS)], by_rate)}

The cores to read are those of readers that tokenize texts of AG News, and answer before the first layer, {costs.reader:,} a second each; longer texts take more. At {RATES[-1]:,} rows/s, {GPUS} GPUs
ask for {GPUS * RATES[-1] / SLICE_ROWS[-1]:.0f} slices of {SLICE_ROWS[-1]:,} rows a second."""


def text_section(costs: Costs) -> str:
    """Input that has to be counted."""
    rows = [
        [said, f"{costs.text[name]:,}", *(duration(ROWS / costs.text[name] / n) for n in CORES)]
        for name, said in (("jsonl", "JSON Lines"), ("csv", "CSV"))
    ]
    before = costs.before["texts"]["csv"]["rows_per_second"]["as the job does"]
    terabytes = ROWS * costs.text_bytes / 1e12
    return f"""### As text

Files of JSON Lines and CSV are read once to count their rows, before the first is labelled, by as many processes as the driver's machine has cores (rows of {costs.text_bytes} bytes):

{table(["", "rows/s of a core", *(f"{n} cores" for n in CORES)], rows)}

That is {terabytes:.1f} TB through one machine: at 25 Gbit/s {duration(8e12 * terabytes / 25e9)} in any case. What is counted is kept, so a run that is killed goes on with counting where it was.
Before, threads counted, which share one core in Python: {duration(ROWS / before)} for CSV, on any machine. Once converted to Parquet, none of it is needed."""


def breaks_section(costs: Costs) -> str:
    """In which order limits are met."""
    usual, large = slices_of(SLICE_ROWS[0]), slices_of(SLICE_ROWS[-1])
    csv = ROWS / costs.text["csv"] / CORES[0]
    objects = 10**7
    return f"""## What breaks first

In this order, where nothing is set; the last two are of other corpora:

1. **Text is counted on one machine.** {duration(csv)} for ten billion rows of CSV with the {CORES[0]} cores of `cluster.yaml`'s head, while the GPUs wait. Parquet has none of it.
2. **Small slices keep the driver busy.** At the default, {SLICE_ROWS[0]:,} rows, {usual:,} slices take Ray's driver {duration(usual * costs.slice)}, however many GPUs there are. The job says so
   from 100,000 slices on.
3. **They fill the driver's memory**: {costs.ray_kilobytes + costs.end_kilobytes:.0f} kB a slice on Ray, {usual * (costs.ray_kilobytes + costs.end_kilobytes) / 2**20:.0f} GB at the default, {large * (costs.ray_kilobytes + costs.end_kilobytes) / 2**20:.1f} GB at {SLICE_ROWS[-1]:,} rows.
4. **The end of a run removes a record for each slice**, {AT_ONCE} at a time: {duration(costs.end(usual))} at the default, in which the GPUs have nothing to do.
5. **Many small files.** A million shards take {duration(costs.start(10**6))} until their footers are read, {AT_ONCE} at a time.
6. **Many files of labels.** S3's client holds {costs.object_kilobytes:.1f} kB for each object of a listing: {objects / 1e6:.0f} million slices, and every night takes {objects * costs.object_kilobytes / 2**20:.0f} GB and
   {duration(objects * costs.listed + objects / 1000 * LATENCY)} to list them. The plan itself takes less."""


def changed_section(costs: Costs) -> str:
    """What was changed because of it."""
    before, now = growth(costs.before, "first"), costs.end_kilobytes
    csv = {
        name: found["texts"]["csv"]["rows_per_second"]["as the job does"]
        for name, found in (("before", costs.before), ("now", costs.found))
    }
    return f"""## What was changed because of it

{
        table(
            ["", "before", "now"],
            [
                [
                    "memory at the end of a run, for each slice that it has labelled",
                    f"{before:.0f} kB",
                    f"{now:.1f} kB",
                ],
                [
                    f"rows of CSV counted a second, on {costs.found['texts']['machine']['cores']} cores",
                    f"{csv['before']:,}",
                    f"{csv['now']:,}",
                ],
            ],
        )
    }

Not of the same sizes: memory grew from {sizes(costs.before)} before and from {
        sizes(costs.found)
    } now, and {costs.before["texts"]["options"]["rows"]:,} rows were counted before, {
        costs.found["texts"]["options"]["rows"]:,} now.

A run keeps what it has committed as rows of a manifest, not as objects of Python, and writes its statistics some slices at a time. Large files of text are counted by
processes. A plan forgets the schemas of Parquet shards. On Ray, the job says what more than 100,000 slices will take."""


SETTINGS = """## What to set

* **Slices**: `--slice-rows 500000` on GPUs, or as many that a replica works on a slice for some seconds; readers and replicas hold a slice in memory
  ([how much](sizing.md)). No more than 100,000 slices in a run.
* **Shards**: Parquet, of as many rows as a slice or a multiple of that, as a slice does not span shards: a million rows each.
* **The head node**: 4 cores and 16 GB for 100,000 slices, as in `cluster.yaml`, with no slices beside the driver. For text, as many cores as there are, and a fast network.
* **Replicas**: `--replicas 64`, not a range, where the machines are there.
* **Nights**: the smaller a night is, the less of this matters: a run reads what is new."""

LIMITS = """## Known limits

* Ray Data needs milliseconds of its driver for each block, and a slice is a block of its own, so that it is scheduled, retried and
  committed by itself: [ray#65473](https://github.com/ray-project/ray/issues/65473).
* It keeps some statistics of each block until the run ends: [ray#66016](https://github.com/ray-project/ray/issues/66016).
* Its loop takes longer the more actors there are, felt from some hundred on: [ray#54790](https://github.com/ray-project/ray/issues/54790). Beside 64
  replicas there are as many committers and at least 256 readers. This was not measured here.
* A fast pool before a slow one can take the processors that the slow one waits for: [ray#65540](https://github.com/ray-project/ray/issues/65540).
* S3 takes 3,500 writes and 5,500 reads a second below one prefix ([guide](https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html)); records lie
  below one, and a run of this size writes some tens a second.
* One file is counted by one process: a single file of 1 TB takes as long as that takes.
* A stream, as in a compressed file, is read by one reader ([formats](formats.md)): its slices come one after the other."""


def scale_page() -> str:
    """docs/scale.md."""
    costs = Costs()
    parts = (costs_section, nights_section, example_section, text_section, breaks_section)
    sections = "\n\n".join(part(costs) for part in parts)
    programs = ("nights", "client", "requests --endpoint URL", "driver", "texts")
    commands = "\n".join(
        f"python -m benchmarks.speed.at_scale {name} --work WORK --output benchmarks/results/at_scale.json"
        for name in programs
    )
    return f"""# Ten billion rows

What a corpus of ten billion rows takes beside the model: of the driver, of its memory, and of the store. On paper, from what was measured on {where(costs.found["client"]["machine"])}; requests
were counted on moto. Generated by `python -m benchmarks.pages.tables` from `benchmarks/results/`.

{sections}

{SETTINGS}

{changed_section(costs)}

{LIMITS}

```
{commands}
```
"""
