"""Keys of object stores."""

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.records import holding, identity

from hostile.harness import GOOD, numbered
from pipelines.input.columns import InputColumns
from pipelines.input.shards import find_shards
from pipelines.labelling.plan import make_plan

HOSTILE_KEYS = ["a/../../b", "a//b", "a/./b", "../b", "a::b", "a\0b"]


@pytest.mark.parametrize("key", HOSTILE_KEYS)
def test_keys_of_object_stores(key, monkeypatch):
    """Names that no disk has; they must not lead out of the output, or meet in one file."""
    memory = fsspec.filesystem("memory")
    sink = pa.BufferOutputStream()
    pq.write_table(numbered(GOOD), sink)
    data = sink.getvalue().to_pybytes()
    memory.pipe_file("/corpus/good.parquet", data)
    names = ["/corpus/good.parquet", f"/corpus/{key}.parquet"]
    info = {"size": len(data), "type": "file", "created": 1}
    listing = {name: info | {"name": name} for name in names}
    monkeypatch.setattr(type(memory), "find", lambda *_, **__: listing)
    try:
        shards = find_shards(["memory://corpus"])
        plan = make_plan(shards, holding([]), identity(), InputColumns(), 1000, "refuse")
    finally:
        memory.rm_file("/corpus/good.parquet")
    assert [piece.path for piece in plan.todo] == ["table/good.000000000000.parquet"]
    ((_, reason),) = plan.bad_shards.items()
    assert "rename it" in reason
