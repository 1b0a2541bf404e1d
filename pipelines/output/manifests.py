"""Manifests: the records of finished runs, in a few Parquet files.

`ledger/manifests/<first>-<last>-<time>.parquet` holds the records of the folds from `first` to
`last`. The names are the only index: a manifest inside another one's range has been merged into it,
and is no longer valid. So a manifest becomes valid in one atomic step, and no second object can be
lost or disagree. Of two rows of a slice, that of the later manifest counts; a `withdrawn` row
invalidates older ones.
"""

import json
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.output.record import Record, table_path
from pipelines.output.sets import Mask, Sets
from pipelines.output.statistics import MEASURES, arrow
from pipelines.output.storage import Damaged

FOLDER = "ledger/manifests"
#: The key of a slice.
KEY = ["shard", "first_row"]
#: The columns that a plan reads. They come first in a manifest, to lie together.
PLANNED = [*KEY, "rows", "shard_rows", "source", "version", "recipe", "run_id", "committed_at",
           "precision", "quarantined", "model_errors", "withdrawn"]  # fmt: skip
#: Texts that repeat from slice to slice.
_REPEATING = {"shard", "source", "version", "recipe", "run_id", "precision", "device"}
#: Slices decoded at a time if all columns are read: about 2 kB each.
_GROUP_ROWS = 1 << 16


def _schema() -> pa.Schema:
    """The fields of `Record`; `path` follows from the key, and `recipe` is JSON."""
    kinds = get_type_hints(Record, include_extras=True) | {"recipe": str, "withdrawn": bool}
    text = pa.dictionary(pa.int32(), pa.string())
    names = [*PLANNED, *(name for name in kinds if name not in (*PLANNED, "path"))]
    return pa.schema([(n, text if n in _REPEATING else arrow(kinds[n])) for n in names])


SCHEMA = _schema()
PLAN_SCHEMA = pa.schema([SCHEMA.field(name) for name in PLANNED])
#: Columns that every manifest has.
_REQUIRED = {*PLANNED, *(measure.name for measure in MEASURES if measure.required)}


@dataclass(frozen=True, order=True)
class Manifest:
    """A manifest's name. Names sort by precedence: the latest is the last."""

    last: int
    first: int
    stamp: str

    @classmethod
    def of(cls, path: str) -> "Manifest | None":
        """The manifest at a path; None for other files."""
        found = re.fullmatch(rf"{FOLDER}/(\d{{6,}})-(\d{{6,}})-([0-9a-f]{{16}})\.parquet", path)
        return found and cls(int(found[2]), int(found[1]), found[3])

    @classmethod
    def new(cls, first: int, last: int, others: list["Manifest"]) -> "Manifest":
        """A unique name, later than all others, even if two runs believe that they hold the
        output."""
        stamps = [int(each.stamp, 16) + 1 for each in others]
        return cls(last, first, f"{max(time.time_ns(), *stamps, 0):016x}")

    @property
    def path(self) -> str:
        """Its path, below the output root."""
        return f"{FOLDER}/{self.first:06d}-{self.last:06d}-{self.stamp}.parquet"

    def inside(self, other: "Manifest") -> bool:
        """Whether the other, later one was merged from this one and others."""
        mine, theirs = (self.first, self.last), (other.first, other.last)
        wider = mine != theirs and theirs[0] <= mine[0] and mine[1] <= theirs[1]
        return wider and self.stamp < other.stamp


def counting(paths: Iterable[str]) -> list[Manifest]:
    """The valid manifests, the latest last."""
    found = sorted(filter(None, map(Manifest.of, paths)))
    return [each for each in found if not any(each.inside(other) for other in found)]


def rows_of(records: Iterable[Record]) -> pa.Table:
    """Records as rows of a manifest."""
    rows = [
        vars(record) | {"recipe": json.dumps(record.recipe), "withdrawn": False}
        for record in records
    ]
    return pa.Table.from_pylist(rows, SCHEMA)


def withdrawals_of(commits: pa.Table) -> pa.Table:
    """Rows that withdraw the records of these slices."""
    none = pa.Table.from_pylist([{"withdrawn": True}], SCHEMA)
    rows = none.take(pa.array(np.zeros(len(commits), np.int64)))
    for name in KEY:
        rows = rows.set_column(rows.schema.get_field_index(name), name, commits[name])
    return rows


def records_of(table: pa.Table) -> list[Record]:
    """Inverse of `rows_of`. Fields that a manifest lacks get their defaults."""
    return [
        Record(
            **{k: v for k, v in row.items() if v is not None and k in _FIELDS},
            path=table_path(row["shard"], row["first_row"]),
        )
        for row in map(_parsed, table.to_pylist(maps_as_pydicts="strict"))
    ]


_FIELDS = Record.__dataclass_fields__.keys()


def _parsed(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"recipe": json.loads(row["recipe"])}


def checked(table: pa.Table) -> pa.Table:
    """The columns that plans read of a manifest. They decide which rows are done, and which files
    may be removed, so values that no run can have written raise Damaged."""
    if missing := sorted(set(PLANNED) - set(table.column_names)):
        raise Damaged(f"it has no {', '.join(missing)}")
    table = table.select(PLANNED).cast(PLAN_SCHEMA)
    first, rows, withdrawn = table["first_row"], table["rows"], table["withdrawn"]
    fits = pc.less_equal(pc.add(first, rows), table["shard_rows"])
    sound = pc.and_(pc.greater_equal(pc.min_element_wise(first, rows), 0), fits)
    if not pc.all(pc.or_kleene(withdrawn, sound), skip_nulls=False, min_count=0).as_py():
        raise Damaged("it has rows outside their shard")
    shards = pc.unique(table["shard"]).dictionary
    if len(shards) and pc.any(pc.match_substring_regex(shards, r"(^|/)\.{0,2}(/|$)")).as_py():
        raise Damaged("it has shards outside the output")
    return table


def groups(data: bytes) -> Iterator[pa.Table]:
    """The rows of a manifest, with all columns, in batches; raises Damaged if unreadable."""
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        if missing := sorted(_REQUIRED - set(file.schema_arrow.names)):
            raise Damaged(f"it has no {', '.join(missing)}")
        for group in range(file.num_row_groups):
            yield file.read_row_group(group)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Damaged(str(error)) from error


def encoded(tables: Iterable[pa.Table]) -> bytes:
    """A manifest of these rows. Columns of later releases are kept."""
    sink, writer, schema = pa.BufferOutputStream(), None, SCHEMA
    for table in tables:
        if writer is None:
            schema = pa.unify_schemas([SCHEMA, table.schema])
            writer = _writer(sink, schema)
        missing = [field for field in schema if field.name not in table.column_names]
        for field in missing:
            table = table.append_column(field, pa.nulls(len(table), field.type))
        writer.write_table(table.select(schema.names).cast(schema), row_group_size=_GROUP_ROWS)
    (writer or _writer(sink, SCHEMA)).close()
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _writer(sink: pa.BufferOutputStream, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True)


def latest(parts: list[pa.Table]) -> list[Mask]:
    """For each part, which rows count: those whose slice is in no later part."""
    masks = [np.ones(len(part), bool) for part in parts]
    some = [place for place, part in enumerate(parts) if len(part)]
    with Sets(**{f"part_{place}": parts[place].select(KEY) for place in some}) as sets:
        for i, place in enumerate(some[:-1]):
            later = " union all ".join(f"select * exclude (n) from part_{j}" for j in some[i + 1 :])
            mine = f"part_{place}"
            masks[place] = sets.mask(mine, f"from {mine} anti join ({later}) using ({_KEY})")
    return masks


_KEY = ", ".join(KEY)
