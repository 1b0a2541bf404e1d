"""Promises against full depth in float32, and against its own, from against.json."""

from typing import Any

from benchmarks.pages.markdown import load, table, where


def against_section() -> str:
    """A row for each set and precision."""
    results = load("against")
    rows = []
    for name, found in results["sets"].items():
        for precision in ("fp32", "bf16", "int8"):
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

A promise counts answers that differ from full depth's in the same precision; with `--against fp32`,
from float32's, so that what the precision itself changes is part of it. Calibrated on half of the
rows and judged by the other half, {results["splits"]} times, with a confidence of
{results["confidence"]:.0%}: FLOPs of full depth by those of all splits together, and how many
promises were broken, of those that could be made. At most one in twenty may be.
On {where(results["machine"])}.

{table(names, rows)}

```
{results["program"]}
```"""


def _cell(found: dict[str, Any]) -> str:
    if not found["promises"]:
        return "none can be made"
    return (
        f"{found['flops_speedup_of_all_together']:.2f}x, {found['broken']} of {found['promises']}"
    )
