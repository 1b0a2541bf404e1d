"""Random documents as records: the ledger's reader takes only whole ones."""

import json
from dataclasses import asdict, fields
from typing import Any, get_type_hints

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.records import committed, identity, record

from fuzz.properties import examples, plan_of
from pipelines.input.columns import InputColumns
from pipelines.input.shards import Shard
from pipelines.output.history import statistics
from pipelines.output.ledger import Ledger
from pipelines.output.manifests import rows_of
from pipelines.output.record import Record, table_path
from pipelines.output.storage import Storage

odd_values = st.sampled_from(
    [-1, 0, 1, 1.5, 2**70, True, None, "x", "0", "../x", "", [], {}, [None], ["x"], [1, -1, 1]]
)
names_of_fields = st.sampled_from([field.name for field in fields(Record)])
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | odd_values,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
RECORD = record()
mutations = st.dictionaries(names_of_fields, json_values, max_size=3)
cuts = st.tuples(st.integers(0, 2000), st.integers(0, 40), st.binary(max_size=6))


def cut(data: bytes, where: tuple[int, int, bytes]) -> bytes:
    """Some bytes replaced by others."""
    at = where[0] % (len(data) + 1)
    return data[:at] + where[2] + data[at + where[1] :]


def encoded(values: dict[str, Any], where: tuple[int, int, bytes] | None) -> bytes:
    text = json.dumps(asdict(RECORD) | values, indent=1).encode()
    return text if where is None else cut(text, where)


documents = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([b"[" * 100_000, b'{"a":' * 100_000, b"null", b"NaN", b'"\\ud800"']),
    st.builds(lambda value: json.dumps(value).encode(), json_values),
    st.builds(encoded, mutations, st.none() | cuts),
    st.builds(lambda name, value: encoded({name: value}, None), names_of_fields, odd_values),
    st.builds(encoded, st.just({}), cuts),
)


def is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def well_formed(found: Record) -> bool:
    """Every field is of its type, and the record agrees with itself."""
    for name, kind in get_type_hints(Record).items():
        value = getattr(found, name)
        if kind == list[int]:
            fine = isinstance(value, list) and all(map(is_count, value))
        elif kind == list[list[int]]:
            fine = all(isinstance(v, list) and all(map(is_count, v)) for v in value)
        elif kind == list[dict[str, int]]:
            fine = all(isinstance(v, dict) and all(map(is_count, v.values())) for v in value)
        elif kind == dict[str, int]:
            fine = isinstance(value, dict) and all(map(is_count, value.values()))
        elif kind == dict[str, Any]:
            fine = isinstance(value, dict)
        elif kind is float:
            fine = type(value) in (int, float)
        elif kind is int:
            fine = type(value) is int and value >= 0
        else:
            fine = type(value) is kind
        if not fine:
            return False
    return (
        found.path == table_path(found.shard, found.first_row)
        and found.first_row + found.rows <= found.shard_rows
        and len(found.exits) == len(found.exit_tokens) == len(found.exit_flops)
    )


class Held(Storage):
    """An output in a dictionary."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects

    def paths(self, folder: str, suffix: str) -> set[str]:
        return {p for p in self.objects if p.startswith(f"{folder}/") and p.endswith(suffix)}

    def listing(self, folder: str, suffix: str) -> tuple[pa.ChunkedArray, list[str]]:
        return pa.chunked_array([pa.array(sorted(self.paths(folder, suffix)), pa.string())]), []

    def read(self, paths: list[str]) -> dict[str, bytes]:
        return {path: self.objects[path] for path in paths if path in self.objects}


@given(documents, documents)
def ledger_reader_takes_only_records(document, other):
    sane = record("sane")
    objects = {
        f"ledger/slices/{RECORD.slice_id}.json": document,
        "ledger/slices/elsewhere.json": other,
    }
    objects[f"ledger/slices/{sane.slice_id}.json"] = json.dumps(asdict(sane)).encode()
    objects |= {RECORD.path: b"rows", sane.path: b"rows", "table/x.parquet": b""}
    ledger = Ledger(Held(objects))
    found = ledger.committed()
    records = ledger.records(found.commits)
    assert sane in records
    for each in records:
        assert well_formed(each), each
    stray = {sane.path, RECORD.path} - {each.path for each in records}
    assert found.stray.keys() == stray
    # What the reader takes, the plan and the statistics can use.
    shards = [Shard(RECORD.source, "a", "etag:1"), Shard(sane.source, "sane", "etag:1")]
    rows = {"a": 10, "sane": 10}
    plan = plan_of(rows, shards, found, identity(), InputColumns(), 4, "relabel")
    kept = (plan.up_to_date, plan.removed, plan.replaced, plan.spared)
    assert sum(map(len, kept)) == len(records)
    assert statistics(rows_of(records)).num_rows


def test_the_ledger_reader_takes_only_records(repeat):
    rounds = repeat("ledger", examples(150)(ledger_reader_takes_only_records))
    print(f"ledger: {rounds} rounds of 150 examples")


@pytest.mark.parametrize(
    "values",
    [
        {"rows": "x"},
        {"rows": [1]},
        {"rows": -1},
        {"rows": True},
        {"first_row": 1.0},
        {"shard": 7},
        {"exits": "abc"},
        {"exits": [1, "2", 3]},
        {"exits": [1]},
        {"recipe": []},
        {"quarantined": "no"},
        {"path": "table/other.000000000000.parquet"},
        {"run_id": "../../x"},
        {"run_id": "\ud800"},
        {"tokens": 2**70},
        {"shard_rows": 5},
        {"device_seconds": None},
    ],
)
def test_a_record_of_wrong_types_counts_as_absent(values):
    path = values.get("path", RECORD.path)
    name = f"ledger/slices/{RECORD.slice_id}.json"
    objects = {name: encoded({}, None), path: b"rows", RECORD.path: b"rows"}
    assert committed(Ledger(Held(objects))) == [RECORD]
    objects[name] = encoded(values, None)
    assert committed(Ledger(Held(objects))) == []
