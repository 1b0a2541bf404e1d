"""Which results are of an earlier commit, and why they were not measured again."""

import json

from benchmarks import RESULTS
from benchmarks.pages.markdown import table


def kept_section() -> str:
    """A row for each reason."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for path in sorted(RESULTS.rglob("*.json")):
        if kept := json.loads(path.read_text()).get("kept"):
            name = str(path.relative_to(RESULTS).with_suffix(""))
            reasons.setdefault((kept["why"], kept["commit"]), []).append(f"`{name}`")
    rows = [[", ".join(names), commit, why] for (why, commit), names in reasons.items()]
    return (
        "## Of earlier commits\n\nAll results name the commit that measured them, and the "
        "checkpoint if they have one, except these:\n\n"
        + table(["results", "committed with", "why they were not measured again"], rows)
        + "\n"
    )
