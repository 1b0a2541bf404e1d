"""A slice on its way through the stages, and its form between processes.

One slice is one row of one Ray Data block, its table an Arrow IPC buffer: Ray splits blocks above
128 MiB, and would tear a slice apart, but it never splits a row.
"""

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from pipelines.input.shards import Shard
from pipelines.input.slices import Slice

#: Private columns between the stages; none reaches the output, and no shard may have such names.
IDS, TYPES, ERROR = "\0ids", "\0types", "\0error"


@dataclass(frozen=True)
class Work:
    """One slice between two stages."""

    slice: Slice
    #: Carried columns and, after ReadTokenize, the private ones; after Label, the output's.
    table: pa.Table | None = None
    #: Measurements so far, by the name they have in the ledger's record.
    measured: dict[str, Any] | None = None
    #: Why the shard could not be read; then there is no table, and later stages pass it on.
    failure: str | None = None

    def with_table(self, table: pa.Table, **measured: Any) -> "Work":
        """The next stage's work."""
        return replace(self, table=table).with_measured(**measured)

    def with_measured(self, **measured: Any) -> "Work":
        """The same with further measurements."""
        return replace(self, measured=(self.measured or {}) | measured)

    def to_row(self) -> dict[str, Any]:
        """The slice as JSON and the table as bytes."""
        payload = b""
        if self.table is not None:
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, self.table.schema) as writer:
                writer.write_table(self.table)
            payload = sink.getvalue().to_pybytes()
        return {"work": json.dumps(asdict(replace(self, table=None))), "payload": payload}

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
        values = json.loads(block["work"][0].as_py())
        position = values.pop("slice")
        shard = Shard(**position.pop("shard"))
        payload = block["payload"][0].as_buffer() if block["payload"][0].is_valid else None
        table = pa.ipc.open_stream(payload).read_all() if payload and payload.size else None
        return cls(**values | {"slice": Slice(shard, **position), "table": table})
