"""Files of every format with the same rows."""

import csv
import gzip
import io
import json
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq


def json_lines(table: pa.Table) -> bytes:
    rows = table.to_pylist()
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def delimited(table: pa.Table, separator: str = ",") -> bytes:
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=separator)
    writer.writerow(table.column_names)
    writer.writerows(table.to_pylist() and [row.values() for row in table.to_pylist()])
    return file.getvalue().encode()


def zstd(data: bytes) -> bytes:
    return pa.compress(data, "zstd", asbytes=True)


def arrow_file(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    return sink.getvalue()


def arrow_stream(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    return sink.getvalue()


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=7)
    return sink.getvalue()


#: By file name.
ENCODED: dict[str, Callable[[pa.Table], bytes]] = {
    "x.parquet": parquet,
    "x.arrow": arrow_file,
    "stream.arrow": arrow_stream,
    "x.jsonl": json_lines,
    "x.json.gz": lambda table: gzip.compress(json_lines(table)),
    "x.jsonl.zst": lambda table: zstd(json_lines(table)),
    "x.csv": delimited,
    "x.csv.gz": lambda table: gzip.compress(delimited(table)),
    "x.tsv": lambda table: delimited(table, "\t"),
    "semicolons.csv": lambda table: delimited(table, ";"),
}
