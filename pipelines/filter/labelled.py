"""Which shards of the input have labels that are those of the rows that are there now."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import pyarrow as pa

from fastbert.filesystem import redacted
from pipelines.input.shards import Shard
from pipelines.input.slices import Slice
from pipelines.output.sets import Sets

_EACH_SHARD = """
    select shard, any_value(source) as source, max(shard_rows) as shard_rows,
           list(distinct version) as versions,
           list(first_row order by first_row) as firsts, list(rows order by first_row) as rows
    from commits group by shard
"""


@dataclass(frozen=True)
class Labelled:
    """A shard of which each row has been labelled once, in the version that is there now."""

    shard: Shard
    version: str  # as the labels' record has it
    rows: int
    firsts: Sequence[int]  # of each slice, in order

    def slices(self) -> Iterator[Slice]:
        """In the order of rows."""
        for first, stop in zip(self.firsts, [*self.firsts[1:], self.rows], strict=True):
            yield Slice(self.shard, self.rows, first, stop - first)


def labelled(shards: list[Shard], commits: pa.Table) -> tuple[list[Labelled], dict[str, str]]:
    """The shards whose labels can be joined, and, by URL, why others cannot: of the input, and of
    those that have labels only. `commits` are those of `Committed`."""
    with Sets(commits=commits) as sets:
        known = {found["shard"]: found for found in sets.table(_EACH_SHARD).to_pylist()}
    found, others = [], {}
    for shard in shards:
        labels = known.pop(shard.name, None)
        reason = shard.problem or _reason(shard, labels)
        if reason is not None:
            others[redacted(shard.url)] = reason
        elif labels is not None:
            version, rows = labels["versions"][0], labels["shard_rows"]
            found.append(Labelled(shard, version, rows, labels["firsts"]))
    for labels in known.values():
        others[labels["source"]] = (
            f"has labels, and is no longer in --input; {LABEL} --prune removes them"
        )
    return found, others


#: What to do about most of it.
LABEL = "run fastbert label"


def _reason(shard: Shard, labels: dict[str, Any] | None) -> str | None:
    """Why labels are not those of a shard's rows; None where they are."""
    if labels is None:
        return f"has no labels; {LABEL}, and filter again"
    if not all(map(shard.has_version, labels["versions"])):
        return f"has changed since it was labelled; {LABEL}, and filter again"
    ends = [*accumulate(labels["rows"])]
    if labels["firsts"] != [0, *ends[:-1]] or ends[-1] != labels["shard_rows"]:
        return f"has rows without labels; {LABEL} to its end, and filter again"
    return None
