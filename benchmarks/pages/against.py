"""Promises against full depth in float32, and against its own, from against.json."""

from typing import Any

from benchmarks.pages.markdown import judged, load, table, where

_PRECISIONS = ("fp32", "bf16", "int8")


def against_section() -> str:
    """A row for each set and precision."""
    results = load("against")
    rows = []
    for name, found in results["sets"].items():
        for precision in _PRECISIONS:
            one = found[precision]
            rows.append([
                name,
                f"{found['share']:.0%}",
                precision,
                f"{one['changed_at_full_depth']:.2%}",
                *(_cell(one[kind]) for kind in ("own", "against_fp32")),
            ])  # fmt: skip
    names = ["set", "promise", "precision", "changed at full depth", "against its own full depth",
             "against float32's"]  # fmt: skip
    return f"""## Against float32's full depth

A promise counts answers that differ from full depth's in the same precision. With `--against fp32`,
it counts answers that differ from full depth's in float32, so that changes by the precision itself
are part of it.

Half of the rows calibrate and the other half judges, {results["splits"]} times, with a confidence
of {results["confidence"]:.0%}. The last two columns have full depth's FLOPs divided by those of all
splits together, how many promises were made, and how many were broken. At most one split in twenty
may end in a broken promise ({_worst(results)}).

If the precision itself changes about as many labels as are allowed, few promises can be made. They
are made by lucky samples, so more of them are broken.

Measured on {where(results["machine"])}.

{table(names, rows)}

```
{results["program"]}
```"""


def _cell(found: dict[str, Any]) -> str:
    if not found["promises"]:
        return "none can be made"
    made, broken = found["promises"], found["broken"]
    return f"{found['flops_speedup_of_all_together']:.2f}x, {made} made, {broken} broken"


def _worst(results: dict[str, Any]) -> str:
    """The most that were broken, of the splits, and whether these are few enough."""
    broken = max(
        found[precision]["against_fp32"]["broken"]
        for found in results["sets"].values()
        for precision in _PRECISIONS
    )
    share = broken / results["splits"]
    return f"the most: {share:.1%}, {judged(share, 1 - results['confidence'], most=True)}"
