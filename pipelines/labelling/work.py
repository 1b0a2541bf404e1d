"""A slice between the stages, its outcome, and how both pass between processes.

Each is pickled, and on Ray is one row of one block: Ray splits blocks above 128 MiB, which would
divide a slice, but never splits a row.
"""

import pickle
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fastbert.errors import FastBertError
from pipelines.input.slices import Slice
from pipelines.output.record import Record
from pipelines.output.statistics import SliceStats

if TYPE_CHECKING:
    from fastbert.inference.decisions import Predictions  # imports torch, which commits do not need

#: Private columns between the stages; none reaches the output, and no shard may have such names.
IDS, TYPES, TRUNCATED, ERROR = "\0ids", "\0types", "\0truncated", "\0error"
#: Lengths of the windows of each row, if texts are read by windows.
WINDOWS = "\0windows"
#: The one column of a block.
ITEM = "item"
#: Encodes data that passes between processes.
packed = pickle.dumps


@dataclass(frozen=True)
class Early:
    """Results for the N rows of a slice before they reach the model's device."""

    #: Answers of rows that have left, by question; they have no tokens any more, except for an
    #: audit.
    found: "list[Predictions]"
    lengths: NDArray[np.int64]  # tokens that each row had, as `CostModel` takes them


@dataclass(frozen=True)
class Work:
    """One slice between two stages."""

    slice: Slice
    #: Carried columns and, after ReadTokenize, the private ones; after Classify, the output's.
    table: pa.Table = field(default_factory=lambda: pa.table({}))
    early: Early | None = None
    #: Statistics so far.
    stats: SliceStats = field(default_factory=SliceStats)

    def retried(self, times: int) -> "Work":
        """The same work, with `times` further retries counted."""
        return replace(self, stats=replace(self.stats, retries=self.stats.retries + times))

    def __getstate__(self) -> dict[str, Any]:
        """In Arrow's own format: a pickled part of a table would include the whole table."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.table.schema) as writer:
            writer.write_table(self.table)
        return vars(self) | {"table": sink.getvalue()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state | {"table": pa.ipc.open_stream(state["table"]).read_all()})


@dataclass(frozen=True)
class Failed:
    """The outcome of a slice that could not be read, instead of a record."""

    slice: Slice
    reason: str


Outcome = Record | Failed


def to_block(item: Work | Outcome | FastBertError) -> pa.Table:
    """A block of one row; also for errors: a raised one would arrive inside Ray's tracebacks."""
    return pa.table({ITEM: pa.array([packed(item)], pa.large_binary())})


def from_block(block: pa.Table) -> Any:
    """Inverse of `to_block`."""
    return unpacked(block[ITEM][0].as_buffer())


def unpacked(data: bytes | pa.Buffer) -> Any:
    """Inverse of `packed`. Processes of one run write such data, Ray and pipes carry it: nothing is
    unpickled from disk or from a checkpoint."""
    return pickle.loads(data)
