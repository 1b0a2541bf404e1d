"""Values passed to all stages of a run: its settings, and its share of the machine."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from fastbert.packed.input_range import Range
from pipelines.input.columns import InputColumns
from pipelines.input.slices import Slice
from pipelines.labelling.work import Outcome
from pipelines.output.identity import Identity
from pipelines.output.schema import output_schema
from pipelines.settings import LabelSettings


def columns_of(identity: Identity) -> InputColumns:
    """The columns to read from the input."""
    carry = None if identity.carry is None else tuple(identity.carry)
    text, pair = identity.text_column, identity.pair_column
    return InputColumns(text, pair, carry, added=added_by(identity))


def added_by(identity: Identity) -> pa.Schema:
    """The columns that labelling adds."""
    windows = identity.windows is not None
    return output_schema(identity.kinds, identity.truncated, identity.all_scores, windows)


@dataclass(frozen=True, kw_only=True)
class Run:
    """Settings of one run for every stage."""

    model: str  # URL of the checkpoint, whose fingerprint is in the identity
    #: Its fingerprint without the weights, which readers do not fetch; None is not compared.
    tokenizer: str | None = None
    output: str  # URL
    run_id: str
    identity: Identity
    #: See `InputColumns`.
    fields: pa.Schema = field(default_factory=lambda: pa.schema([]))
    #: For the lineage: the name of the thresholds in `identity`.
    operating_point: str
    audit_rate: float
    precision: str
    #: The user asked for this precision: a device may emulate it.
    emulated: bool = False
    #: The operating point's ranges, for 8-bit linear maps.
    ranges: Mapping[str, Range] | None = None
    #: Whether readers answer the rows that leave before the first layer.
    answer_early: bool = False
    #: The run's token in the output's lock; without it, the lock is not checked.
    lock: str | None = None


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Shares of the machine or the cluster."""

    low: int  # fewest and most replicas
    high: int
    replica_gpus: float  # each
    replica_cpus: int  # each
    readers: int  # at most
    reader_cpus: float  # each
    #: A commit encodes Parquet briefly, and mostly waits for the store.
    commit_cpus: float = 0.25
    #: Whether readers may answer rows, to save work of a GPU.
    answer_early: bool = False
    attempts: int  # times a slice may end its process
    timeout: float  # seconds that a process may take for a slice

    @property
    def device(self) -> str:
        """What replicas compute on: "cuda" or "cpu"."""
        return "cuda" if self.replica_gpus else "cpu"


class Executor(Protocol):
    """Interface of what runs the stages."""

    def resources(self, settings: LabelSettings) -> Resources:
        """Connect to the machines and divide them; raises InputError if they are too small. Called
        only if there are slices to label.

        Processes may start now, and load while the rest of the run is checked.
        """

    def call(self, function: str, *arguments: Any) -> Any:
        """The result of a function that needs torch, named "package.module:function"; raises its
        FastBertErrors. Called after `resources`."""

    def under_way(self) -> float:
        """Approximate number of rows done of slices in progress. Called from another thread."""

    def run(
        self, run: Run, slices: list[Slice], resources: Resources
    ) -> Generator[Outcome, None, None]:
        """The outcome of each slice, as it finishes. Closing the iterator ends all processes."""

    def close(self) -> None:
        """End started processes, if nothing is run."""
