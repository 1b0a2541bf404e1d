"""A labelled output without labelling, and the tables that are exported from it."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, write_deltalake
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.table import StaticTable
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
        return export(ExportSettings(**{"output": self.url, **self.target} | changes))

    @property
    def target(self) -> dict:
        """The option that names the table."""
        return {"delta": self.delta}

    def truth(self) -> Counter:
        """The rows of `table/`, read as anybody would, from wherever they are."""
        found = Counter()
        for path in self.ledger.storage.paths("table", ".parquet"):
            shard, first, _ = path.removeprefix("table/").rsplit(".", 2)
            for place, row in enumerate(pq.read_table(f"{self.url}/{path}").to_pylist()):
                found[as_key(row | {"shard": shard, "row": int(first) + place})] += 1
        return found

    def read(self, version=None) -> pa.Table:
        """The table; versions count from 0, which made it."""
        return DeltaTable(self.delta, version=version).to_pyarrow_table()

    def elsewhere(self) -> None:
        """From now on, another table."""
        self.delta += "2"

    def touch(self) -> None:
        """As somebody else who writes."""
        DeltaTable(self.delta).alter.set_table_description(f"after {self.history()}")

    def add_mine(self) -> None:
        """A row of somebody else's."""
        mine = pa.table({"label": ["mine"]})
        write_deltalake(self.delta, mine, mode="append", schema_mode="merge")

    def delete(self, where: str) -> None:
        """By hand."""
        DeltaTable(self.delta).delete(where)

    def exists(self) -> bool:
        return DeltaTable.is_deltatable(self.delta)

    def exported(self, version=None) -> Counter:
        table = self.read(version)
        left_out = {"slice_id", "run_id", "committed_at"}
        return Counter(
            as_key({k: v for k, v in row.items() if k not in left_out}) for row in table.to_pylist()
        )

    def history(self) -> list[str | None]:
        """The run of each version, but the one that creates the table."""
        commits = sorted(DeltaTable(self.delta).history(), key=lambda commit: commit["version"])
        return [commit.get("run_id") for commit in commits[1:]]


class IcebergOutput(Output):
    """The same, with a table in a catalog of its own."""

    def __init__(self, folder) -> None:
        super().__init__(folder)
        self.settings = {
            "type": "sql",
            "uri": f"sqlite:///{folder}/catalog.db",
            "warehouse": f"file://{folder}/lake",
        }
        self.catalog, self.name = self.new_catalog(), "corpus.labels"

    def elsewhere(self) -> None:
        self.name += "2"

    def new_catalog(self) -> Catalog:
        return load_catalog("lake", **self.settings)

    @property
    def target(self) -> dict:
        return {"iceberg": f"lake.{self.name}"}

    def exists(self) -> bool:
        return self.catalog.table_exists(self.name)

    def touch(self) -> None:
        self.add_mine()

    def add_mine(self) -> None:
        self.table().append(pa.table({"label": ["mine"]}))

    def delete(self, where: str) -> None:
        self.table().delete(where)

    def table(self):
        return self.catalog.load_table(self.name)

    def commits(self) -> list:
        """The table as each commit to the catalog has left it."""
        now = self.table()
        places = [each.metadata_file for each in now.metadata.metadata_log]
        return [StaticTable.from_metadata(place) for place in [*places, now.metadata_location]]

    def read(self, version=None) -> pa.Table:
        table = self.table() if version is None else self.commits()[version]
        return table.scan().to_arrow()

    def history(self) -> list[str | None]:
        snapshots = [table.current_snapshot() for table in self.commits()[1:]]
        return [each.summary.additional_properties.get("fastbert.run_id") for each in snapshots]


def as_key(row: dict) -> frozenset:
    """A row; a column that its shard does not have is as good as null."""
    return frozenset((name, value) for name, value in row.items() if value is not None)


def check(output: Output, *runs: str | None) -> None:
    """The table equals the output, and each of the runs was one transaction."""
    assert output.exported() == output.truth()
    assert output.history() == list(runs)
