"""A labelled output without labelling, and the Delta table that is exported from it."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from support.records import committed, end_run, record

from pipelines.export.job import export
from pipelines.output.committed import commits_of
from pipelines.output.ledger import Ledger
from pipelines.output.record import Record
from pipelines.output.storage import Storage
from pipelines.settings import ExportSettings

#: Rows per slice, unless a test says otherwise.
ROWS = 7


class Output:
    """A labelled output without labelling: what a run would leave, at once."""

    def __init__(self, folder) -> None:
        self.url, self.delta = str(folder / "labels"), str(folder / "delta")
        self.ledger = Ledger(Storage(self.url))
        self.runs = 0

    def label(self, *slices, run=None, ended=True, rows=ROWS, **columns) -> list[Record]:
        """Commit slices, (shard, first row), as a run does; killed before its end unless `ended`.

        Labels differ from run to run. `columns` are carried ones: functions of the row.
        """
        self.runs += 1
        run = run or f"run-{self.runs}"
        columns = columns or {"id": int}
        made = []
        for shard, first in slices:
            place = range(first, first + rows)
            table = pa.table(
                {name: column if isinstance(column, pa.Array) else [column(i) for i in place]
                 for name, column in columns.items()}
                | {"label": [f"{shard}-{i}-{self.runs}" for i in place],
                   "score": pa.array(np.linspace(0, 1, rows), pa.float32())}
            )  # fmt: skip
            one = record(shard, first, rows, run_id=run, committed_at=self.now())
            self.withdraw(one)
            buffer = pa.BufferOutputStream()
            pq.write_table(table, buffer)
            self.ledger.storage.put(one.path, buffer.getvalue().to_pybytes())
            self.ledger.put(one)
            made.append(one)
        if ended:
            self.end(run)
        return made

    def now(self) -> str:
        return f"2026-11-22T01:{self.runs:02d}:03+00:00"

    def end(self, run: str) -> None:
        end_run(self.ledger, run, summary={"run_id": run})

    def withdraw(self, *records: Record) -> None:
        self.ledger.committed()
        self.ledger.withdraw(commits_of(list(records)))

    def forget(self, *records: Record) -> None:
        self.ledger.committed()
        self.ledger.forget(commits_of(list(records)))

    def prune(self, *shards: str) -> None:
        self.runs += 1
        self.forget(*(each for each in committed(self.ledger) if each.shard in shards))
        self.end(f"run-{self.runs}")

    def export(self, **changes) -> dict:
        return export(ExportSettings(**{"output": self.url, "delta": self.delta} | changes))

    def truth(self) -> Counter:
        """The rows of `table/`, read as anybody would, from wherever they are."""
        found = Counter()
        for path in self.ledger.storage.paths("table", ".parquet"):
            shard, first, _ = path.removeprefix("table/").rsplit(".", 2)
            for place, row in enumerate(pq.read_table(f"{self.url}/{path}").to_pylist()):
                found[as_key(row | {"shard": shard, "row": int(first) + place})] += 1
        return found

    def exported(self, version=None) -> Counter:
        table = DeltaTable(self.delta, version=version).to_pyarrow_table()
        left_out = {"slice_id", "run_id", "committed_at"}
        return Counter(
            as_key({k: v for k, v in row.items() if k not in left_out}) for row in table.to_pylist()
        )

    def history(self) -> list[str | None]:
        """The run of each version, but the one that creates the table."""
        commits = sorted(DeltaTable(self.delta).history(), key=lambda commit: commit["version"])
        return [commit.get("run_id") for commit in commits[1:]]


def as_key(row: dict) -> frozenset:
    """A row; a column that its shard does not have is as good as null."""
    return frozenset((name, value) for name, value in row.items() if value is not None)


def check(output: Output, *runs: str | None) -> None:
    """The table equals the output, and each of the runs was one transaction."""
    assert output.exported() == output.truth()
    assert output.history() == list(runs)
