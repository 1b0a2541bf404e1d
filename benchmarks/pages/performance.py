"""The page docs/benchmarks.md, from the JSON files in benchmarks/results; `tables` writes it. Its
sections about the engine are here, those about the job in `nights.py`."""

from benchmarks.pages import gpu
from benchmarks.pages.formats import formats_section
from benchmarks.pages.kept import kept_section
from benchmarks.pages.markdown import judged, load, table, where
from benchmarks.pages.nights import (
    chaos_section,
    history_section,
    month_section,
    pipeline_section,
    reporting_section,
    start_section,
)

FOLLOW_UP = "not measured yet"


#: Peers of the engine: how they run, and the target for its ratio to them.
PEERS = {
    "engine fp32 : transformers.pipeline": ("batch 32, full depth; tokenizing on both sides", 20),
    "engine bf16 : transformers.pipeline": ("the same", 30),
    "engine bf16 : transformers.pipeline bf16": ("the same", None),
    "engine int8 : transformers.pipeline": ("the same", None),
    "engine fp32 : ONNX Runtime fp32": ("full depth, rows sorted by length, batch 32", 9),
    "engine fp32 : ONNX Runtime int8": ("the same, dynamically quantised", 4),
    "engine fp32 : OpenVINO fp32": ("as ONNX Runtime", None),
    "engine bf16 : OpenVINO bf16": ("the same", None),
    "engine fp32 : OpenVINO int8": ("by NNCF, preset for transformers, 300 texts", 3),
    "engine bf16 : OpenVINO int8": ("the same", None),
    "engine int8 : OpenVINO int8": ("the same", 6),
    "engine fp32 : official algorithm": ("its own exits; batch 32, padded to 128, compacted", 6),
    "engine fp32 : engine at the paper's exits": ("what bag and temperatures are worth", None),
    "engine fp32 : full depth fp32": ("", None),
    "engine bf16 : engine fp32": ("", None),
    "engine int8 : engine fp32": ("", None),
    "full depth fp32 : OpenVINO fp32": ("without any early exit", 1),
    "full depth bf16 : OpenVINO bf16": ("the same", 1),
    "full depth int8 : OpenVINO int8": ("the same", 0.9),
    "full depth int8 : full depth fp32": ("", 2.4),
    "full depth fp32 : products alone": ("matrix products at the engine's own shapes", 0.95),
}


def engine_section() -> str:
    """Peers, and the clock against the FLOPs."""
    found = load("engine")
    ratios, bag = found["ratios"], load("bag")
    rows = [
        [name, how, f"{ratios[name]:.2f}", judged(ratios[name], target) if target else ""]
        for name, (how, target) in PEERS.items()
    ]
    agree = found["agreement_with_full_depth"]
    clock = [
        [f"{100 * r['promised']:g} %", f"{100 * r['changed']:.2f} %", f"{r['flops_speedup']:.2f}"]
        + [f"{r['realised_speedup']:.2f}", f"{r['realised_by_ideal']:.3f}"]
        + [judged(r["realised_by_ideal"], 0.9)]
        for r in found["realised"]
    ]
    left = ", ".join(f"{count:,}" for count in found["exits"])
    return f"""## The engine against its peers

The texts are the AG News test set. The model is MiniLM (6 layers), in fp32 unless the table names another precision.

* The engine runs at the point that {found["rows_that_prove"]:,} rows prove to change at most {100 * found["promised"]:g} % of the labels. Each precision has a point of its own.
* Of {found["rows_of_the_clock"]:,} other rows, {100 * found["changed"]:.2f} % change. They leave at {found["mean_layers"]:.2f} layers on average ({left} by exit, starting
  with the one before the first layer).
* All peers have the same weights, and label the same {found["rows"]:,} of these rows ({found["mean_tokens"]:g} tokens on average). Numbers are medians over
  {found["rounds"]} rounds in turns.

Measured on {where(found["machine"])}.

```
{found["program"]}
```

{table(["rows per second", "the peer", "ratio", "target"], rows)}

* The official algorithm runs at speed {found["speed_of_the_official_algorithm"]:g}, the highest at which at most 1 % of the labels change at its exits.
* ONNX Runtime and OpenVINO run torch's export of the same model.
* "Products alone" takes the faster of torch's two CPU libraries for each shape. It is a bound that cannot be reached with the
  attention's softmax, the normalisations and the copies.

The share of labels that are equal to full depth's, on these rows:

{table(["run", "equal labels"], [[name, f"{share:.4f}"] for name, share in agree.items()])}

### What early exit saves, in FLOPs and on the clock

The {found["rows_of_the_clock"]:,} rows, at the points that the other rows prove, compared with the same engine at full depth without branches. Tokenizing
is not included.

{table(["promised", "changed", "FLOPs speed-up", "on the clock", "clock by FLOPs", "target"], clock)}

### The exit before the first layer

Measured on one core of {where(bag["machine"])}:

* alone, with {bag["tokens"]} tokens a row, decisions included, it answers {bag["rows_per_second"]["pairs"] / 1e6:.2f} million rows a second
  ({judged(bag["rows_per_second"]["pairs"] / 1e6, 1)}), and {bag["rows_per_second"]["no pairs"] / 1e6:.2f} million without pairs;
* it learns {bag["taught_rows"]:,} rows of AG News in {bag["teaching_seconds"]:.0f} s, once full depth's answers are there ({judged(bag["teaching_seconds"], 30, True)}).

```
{bag["program"]}
```
"""


def tokenizing_section() -> str:
    """nanotoken against the fast tokenizer."""
    found = load("tokenizing")
    rows = []
    for name, lengths in found.items():
        if not isinstance(lengths, dict) or "128" not in lengths:
            continue
        for length, one in lengths.items():
            fast = one["times_as_fast"]
            cells = [f"{fast[state]['bare']:.1f}" for state in ("cold", "steady", "same")]
            rows.append(
                [name, length, f"{one['rows']:,}", one["different_rows"], *cells]
                + [judged(fast["steady"]["bare"], 5)]
            )
    names = ["corpus", "max. length", "rows checked", "different", "cold", "steady",
             "same slice again", "target"]  # fmt: skip
    return f"""## Tokenizing

nanotoken on one core: how many times as fast it is as a bare call of Hugging Face's fast tokenizer, in slices of up to {found["slice_rows"]:,}
rows. Numbers are medians of 5 rounds (IMDb: 3). "Steady" is the number that counts: a new slice, after other rows of the corpus.

```
python -m benchmarks.speed.tokenizing --data ag_news=ag_news --data imdb=imdb --data dbpedia14=dbpedia14 --rounds 5 --output benchmarks/results/tokenizing.json
```

{table(names, rows)}
"""


def feeding_section() -> str:
    """Readers, and a replica's host side."""
    found = load("feeding")
    speeds = found["rows_per_second"]
    rows = [
        [what, *(f"{speeds[f'{stage} {what}']:,}" for stage in ("read", "answer"))]
        + [judged(speeds[f"{stage} {what}"], least) for stage, least in found["targets"].items()]
        for what in ("plain", "bag", "windows")
    ]
    return f"""## Beside the model

Rows of AG News per second on one core, {found["rows"]:,} in a slice:

* *read and tokenize*: a reader, from Parquet to the tokens that travel, plain, with the bag, which answers there, or with windows of
  {found["window"]} tokens;
* *answer*: a replica without its layers, from the bytes that arrive to those that leave.

Targets are what both reached before, without bag and windows. The row of the bag includes the bag's own work. Of its {found["rows"]:,} rows,
{found["rows_that_travel"]["bag"]:,} travel to the replica with tokens. Measured on {where(found["machine"])}.

```
{found["program"]}
```

{table(["", "read and tokenize", "answer", "target", "target"], rows)}
"""


def ideas_section() -> str:
    """What each optimisation was expected to bring, and brought."""
    found = load("ablations")
    ratios = found["ratio"]

    def brought(name: str) -> str:
        return f"{ratios[name]:.2f}x" if name in ratios else FOLLOW_UP

    engine = load("engine")["ratios"]
    rows = [
        [
            "pooled rows: layer by layer over a slice",
            "as fast as its FLOPs",
            brought("pools of 1,048,576 tokens (instead of batch by batch)"),
            "kept",
        ],
        [
            "packed rows: no padding, no masks, attention in groups of one length",
            "the share of the padding",
            brought("packed rows: no padding, no masks") + " (with the next)",
            "kept",
        ],
        [
            "oneDNN linear maps with the activation fused",
            "1.2x",
            brought("oneDNN linear maps, activations fused"),
            "kept",
        ],
        [
            "attention in chunks that stay in the cache, on CPUs",
            "1.1x",
            brought("attention in chunks that stay in the cache"),
            "kept",
        ],
        [
            "memory kept from layer to layer, on CPUs",
            "the page faults",
            brought("memory kept from layer to layer"),
            "kept",
        ],
        [
            "residual sums fused into the product",
            "1 %",
            f"{1 / ratios['residual sums apart from the products']:.2f}x",
            "dropped: not worth an operator of its own",
        ],
        [
            "one product for queries, keys and values",
            "1–2 %",
            brought("one product for queries, keys and values"),
            "kept",
        ],
        [
            "branch attends without projecting keys and values of all tokens",
            "2 % fewer FLOPs per layer",
            brought("branch reads tokens without keys and values"),
            "kept",
        ],
        [
            "embeddings: positions and types in one table",
            "3 % where rows leave at once",
            brought("positions and types folded into one table"),
            "kept",
        ],
        [
            "embeddings computed by the batch that reads them",
            "2 % where rows leave at once",
            brought("embeddings by the batch that reads them"),
            "dropped: a first layer of its own for 1 %",
        ],
        [
            "batches of 4,096 tokens on CPU",
            "fits the cache",
            f"{brought('batches of 4,096 tokens (instead of 1,024)')} over 1,024, {brought('batches of 4,096 tokens (instead of 16,384)')} over 16,384",
            "kept",
        ],
        [
            "sizes of batches repeat: multiples of 64 tokens",
            "no memory for what oneDNN keeps per size, at 1 % more work",
            f"{brought('sizes of batches repeat')}, and the memory [above](#memory): it was 2.00",
            "kept",
        ],
        [
            "equal rows computed once",
            "their share of the rows",
            f"{brought('equal rows once: 20 % duplicates')} with 20 % duplicates, {brought('equal rows once: the search, on rows without duplicates')} without any",
            "kept",
        ],
        [
            "`torch.compile` of a layer",
            "fused element-wise work",
            "no number: it compiles again for each batch's mix of lengths, and was stopped after three minutes",
            "dropped; it also needs a compiler on every worker",
        ],
        [
            "int8 on CPU, inputs in measured ranges",
            "2–3x",
            f"{engine['full depth int8 : full depth fp32']:.2f}x at full depth",
            "kept as `--precision int8`",
        ],
        [
            "bf16 on CPU",
            "1.9x on processors that multiply it",
            f"{engine['full depth bf16 : full depth fp32']:.2f}x at full depth",
            "kept as `--precision bf16`",
        ],
        [
            "one decision, one transfer per layer and pool; the host finds the places of the rows that stay",
            "no stalls on a GPU",
            FOLLOW_UP,
            "kept: costs nothing",
        ],
        [
            "out of memory halves the batch",
            "no failed run",
            "tested with a device that is full",
            "kept",
        ],
        [
            "variable-length attention on CUDA",
            "fewer launches",
            FOLLOW_UP + ": `gpu.py` compares it",
            "in the engine; not measured yet",
        ],
        [
            "branches only on layers where they pay",
            "2.8 % of a layer's FLOPs each",
            "not tried",
            "dropped: it would change exit layers",
        ],
    ]
    return f"""## Ideas, and what they brought

A ratio is the time without the idea, divided by the time with it; below 1, the idea costs time. AG News, {found["rows"]:,} rows, medians of
{found["rounds"]} rounds in turns. A difference of less than 0.05 from 1 is noise on this machine: such small ideas were kept if the code
did not become longer.

```
{found["program"]}
```

{table(["idea", "expected", "brought", "verdict"], rows)}
"""


def versions_section() -> str:
    """This release's code against the last one's."""
    found = load("versions")
    rows = [
        [
            name,
            f"{result['ratio']:.3f}",
            "–".join(f"{quartile:.3f}" for quartile in result["quartiles"]),
            "" if result["holds"] is None else judged(result["ratio"], found["claimed_ratio"]),
        ]
        for name, result in found["results"].items()
    ]
    return f"""## Against the last release

The seconds of commit {found["other"]}, divided by those of commit {found["this"]}, in turns. Above 1, this release is faster. int8 is slower because
it has a scale per token, so that rows do not depend on their neighbours. Measured on {where(found["machine"])}.

```
{found["command"]}
```

{table(["what", "ratio", "quartiles", "claim"], rows)}
"""


def performance_page() -> str:
    """docs/benchmarks.md."""
    sections = (
        engine_section, tokenizing_section, formats_section, feeding_section, pipeline_section, ideas_section,
        gpu.section, chaos_section, versions_section, reporting_section, month_section,
        start_section, history_section, kept_section,
    )  # fmt: skip
    head = "# Benchmarks\n\nThis page is generated from `benchmarks/results/*.json` by `python -m benchmarks.pages.tables`. The machines are\nshared, and their speed varies. So all numbers are ratios of runs taken in turns.\n\n"
    return head + "\n".join(section() for section in sections)
