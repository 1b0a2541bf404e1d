"""The page docs/benchmarks.md, from the JSON files in benchmarks/results; `tables` writes it. Its
sections about the engine are here, those about the job in `nights.py`."""

from benchmarks.pages import gpu
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

AG News test, MiniLM (6 layers), fp32 unless said otherwise, at the point that {found["rows_that_prove"]:,} rows prove to change at most {100 * found["promised"]:g} % of the labels: of
{found["rows_of_the_clock"]:,} other rows {100 * found["changed"]:.2f} % change, and they leave at {found["mean_layers"]:.2f} layers on average ({left} by exit, from that before the first layer on). All peers have the same
weights and label the same {found["rows"]:,} of these rows ({found["mean_tokens"]:g} tokens on average); medians over {found["rounds"]} rounds in turns. Each precision has a point of its own. {where(found["machine"])}.

```
{found["program"]}
```

{table(["rows per second", "the peer", "ratio", "target"], rows)}

Share of labels equal to full depth's, on these rows: {", ".join(f"{n} {a:.4f}" for n, a in agree.items())}. The official algorithm runs at speed {found["speed_of_the_official_algorithm"]:g}, the
highest at which at most 1 % of the labels change at its exits. ONNX Runtime and OpenVINO run torch's export of the same model. "Products alone" takes the
faster of torch's two CPU libraries for each shape, so it is a bound that the attention's softmax, the normalisations and the copies
cannot reach.

### What early exit saves, in FLOPs and on the clock

The {found["rows_of_the_clock"]:,} rows, at the points that the others prove, against the same engine at full depth without branches; tokenizing not counted.

{table(["promised", "changed", "FLOPs speed-up", "on the clock", "clock by FLOPs", "target"], clock)}

### The exit before the first layer

Alone, on one core, {bag["tokens"]} tokens a row, decisions included: {bag["rows_per_second"]["pairs"] / 1e6:.2f} million rows a second ({judged(bag["rows_per_second"]["pairs"] / 1e6, 1)}), {bag["rows_per_second"]["no pairs"] / 1e6:.2f} without pairs. To learn
{bag["taught_rows"]:,} rows of AG News takes {bag["teaching_seconds"]:.0f} s on one core, once full depth's answers are there ({judged(bag["teaching_seconds"], 30, True)}). These are seconds of {where(bag["machine"])}.

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
    names = [
        "corpus",
        "max. length",
        "rows checked",
        "different",
        "cold",
        "steady",
        "same slice again",
        "target",
    ]
    return f"""## Tokenizing

One core, times as fast as a bare call of Hugging Face's fast tokenizer, slices of up to {found["slice_rows"]:,} rows,
medians of 5 rounds (IMDb: 3). "Steady" is the
number that counts: an unseen slice, after other rows of the corpus.

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

One core, rows of AG News a second, {found["rows"]:,} in a slice, on {where(found["machine"])}: a reader, from Parquet to the tokens that travel, with the bag, which answers
there, or with windows of {found["window"]} tokens; and a replica without its layers, from the bytes that come to those that go. Targets are what both reached
before, without bag and windows; the bag's own work is in its row. {found["rows_that_travel"]["bag"]:,} rows of the bag's {found["rows"]:,} travel to the replica with tokens.

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
            "pooled survivors: layer by layer over a slice",
            "as fast as its FLOPs",
            brought("pools of 1,048,576 tokens (instead of batch by batch)"),
            "kept",
        ],
        [
            "packed rows: no padding, no masks, attention in groups of one length",
            "the padding's share",
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
            f"{brought('sizes of batches repeat')}, and the memory above: it was 2.00",
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
            "no number: it compiles anew for each batch's mix of lengths, and was stopped after three minutes",
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
            "1.9x on processors that have it",
            f"{engine['full depth bf16 : full depth fp32']:.2f}x at full depth",
            "kept as `--precision bf16`",
        ],
        [
            "one decision, one transfer per layer and pool; survivors' places found on the host",
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
            "not in the engine until it is measured",
        ],
        [
            "branches only on layers where they pay",
            "2.8 % of a layer's FLOPs each",
            "not tried",
            "dropped: it would change exit layers",
        ],
    ]
    return f"""## Ideas, and what they brought

Ratios are the time without the idea by the time with it, AG News, {found["rows"]:,} rows, medians of {found["rounds"]} rounds in turns; below 1 it costs. Less
than 0.05 from 1 is noise on this machine: ideas that small were kept where they made the code no longer.

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

Seconds of {found["other"]} by those of {found["this"]}, in turns, on {where(found["machine"])}. Above 1, this release is faster. int8 pays for rows that do not depend on their neighbours: a scale per token.

```
{found["command"]}
```

{table(["what", "ratio", "quartiles", "claim"], rows)}
"""


def performance_page() -> str:
    """docs/benchmarks.md."""
    sections = (
        engine_section,
        tokenizing_section,
        feeding_section,
        pipeline_section,
        ideas_section,
        gpu.section,
        chaos_section,
        versions_section,
        reporting_section,
        month_section,
        start_section,
        history_section,
        kept_section,
    )
    head = "# Benchmarks\n\nGenerated from `benchmarks/results/*.json` by `python -m benchmarks.pages.tables`. Machines are shared and drift: all numbers are ratios of runs taken in turns.\n\n"
    return head + "\n".join(section() for section in sections)
