"""The parcels that travel with a run: what its stages know, and what they get of the machine."""

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
    """What is read of the input."""
    carry = None if identity.carry is None else tuple(identity.carry)
    text, pair = identity.text_column, identity.pair_column
    return InputColumns(text, pair, carry, added=added_by(identity))


def added_by(identity: Identity) -> pa.Schema:
    """The columns that labelling adds."""
    windows = identity.windows is not None
    return output_schema(identity.kinds, identity.truncated, identity.all_scores, windows)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What every stage of one run knows."""

    model: str  # URL of the checkpoint, whose fingerprint is in the identity
    #: Its fingerprint without the weights, which readers do not fetch; None is not compared.
    tokenizer: str | None = None
    output: str  # URL
    run_id: str
    identity: Identity
    #: See `InputColumns`.
    fields: pa.Schema = field(default_factory=lambda: pa.schema([]))
    #: For the lineage: the name of what `identity` holds as thresholds.
    operating_point: str
    audit_rate: float
    precision: str
    #: The user asked for this precision: a device may emulate it.
    emulated: bool = False
    #: The operating point's, for 8-bit linear maps.
    ranges: Mapping[str, Range] | None = None
    #: Readers answer the rows that leave before the first layer.
    answer_early: bool = False
    #: The run's token in the output's lock; without, the lock is not looked at.
    lock: str | None = None


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Who gets what of the machine, or of the cluster."""

    low: int  # fewest and most replicas
    high: int
    replica_gpus: float  # each
    replica_cpus: int  # each
    readers: int  # at most
    reader_cpus: float  # each
    #: A commit encodes Parquet for moments, and waits for the store most of the time.
    commit_cpus: float = 0.25
    #: Readers may answer what they can: a GPU is what work should be kept from.
    answer_early: bool = False
    attempts: int  # times that a slice may end its process
    timeout: float  # seconds that a process may take for a slice

    @property
    def device(self) -> str:
        """What replicas compute on: "cuda" or "cpu"."""
        return "cuda" if self.replica_gpus else "cpu"


class Executor(Protocol):
    """What runs the stages."""

    def resources(self, settings: LabelSettings) -> Resources:
        """Get hold of the machines and share them out; InputError if they are too small. Called
        only if there is something to label.

        Processes may start now, and get ready while the rest of the run is checked.
        """

    def call(self, function: str, *arguments: Any) -> Any:
        """What a function says that needs torch, such as "package.module:function"; it raises
        FastBertErrors. Called after `resources`."""

    def under_way(self) -> float:
        """Rows that are done, about, of the slices at work. Asked from another thread."""

    def run(
        self, run: Run, slices: list[Slice], resources: Resources
    ) -> Generator[Outcome, None, None]:
        """The outcome of each slice, as they come. To close it ends what was started."""

    def close(self) -> None:
        """End what was started, where nothing is run."""
