"""A slice on its way through the stages, and its form between processes.

One slice is one row of one Ray Data block, its table an Arrow IPC buffer: Ray splits blocks above
128 MiB, and would tear a slice apart, but it never splits a row.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pyarrow as pa

from pipelines.input.slices import Slice
from pipelines.output.statistics import SliceStats

#: Private columns between the stages; none reaches the output, and no shard may have such names.
IDS, TYPES, ERROR = "\0ids", "\0types", "\0error"


@dataclass(frozen=True)
class Work:
    """One slice between two stages."""

    slice: Slice
    #: Carried columns and, after ReadTokenize, the private ones; after Classify, the output's.
    table: pa.Table | None = None
    #: So far.
    stats: SliceStats = field(default_factory=SliceStats)
    #: Why the shard could not be read; then there is no table, and later stages pass it on.
    failure: str | None = None

    def retried(self, times: int) -> "Work":
        """The same after so many further retries."""
        return replace(self, stats=replace(self.stats, retries=self.stats.retries + times))

    def to_row(self) -> dict[str, Any]:
        """The table as bytes, and the rest as JSON."""
        payload = b""
        if self.table is not None:
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, self.table.schema) as writer:
                writer.write_table(self.table)
            payload = sink.getvalue().to_pybytes()
        return {"work": msgspec.json.encode(replace(self, table=None)), "payload": payload}

    def to_block(self) -> pa.Table:
        """`to_row` as a block of one row."""
        row = self.to_row()
        return pa.table(
            {
                "work": pa.array([row["work"]]),
                "payload": pa.array([row["payload"]], pa.large_binary()),
            }
        )

    @classmethod
    def from_block(cls, block: pa.Table) -> "Work":
        """Inverse of `to_block`."""
        work = msgspec.json.decode(block["work"][0].as_py(), type=cls)
        payload = block["payload"][0].as_buffer() if block["payload"][0].is_valid else None
        if payload and payload.size:
            return replace(work, table=pa.ipc.open_stream(payload).read_all())
        return work


@dataclass(frozen=True)
class Failed:
    """A slice that could not be read, where others become a record."""

    slice: Slice
    reason: str
