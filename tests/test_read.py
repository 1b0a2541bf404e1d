"""Reading slices: each is its rows, whatever was read before, and no row is decoded twice."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.input.columns import InputColumns
from pipelines.input.shards import Shard, find_shards
from pipelines.input.slices import Slice, SliceReader
from pipelines.input.unreadable import ShardError

ROWS = 50
TABLE = pa.table({"id": range(ROWS), "text": [f"text {i}" for i in range(ROWS)]})


def shards(folder, **row_group_sizes: int) -> dict[str, Shard]:
    for name, size in row_group_sizes.items():
        pq.write_table(TABLE, folder / f"{name}.parquet", row_group_size=size)
    return {shard.name: shard for shard in find_shards([str(folder)])}


def read(reader: SliceReader, piece: Slice) -> pa.Table:
    return pa.concat_tables(reader.read(piece))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> dict[str, Shard]:
    return shards(tmp_path_factory.mktemp("in"), one=ROWS, some=7)


@pytest.fixture
def small_batches(monkeypatch):
    """Batches of 4 rows; counts those that are decoded."""
    decoded = []
    real = pq.ParquetFile.iter_batches

    def iter_batches(self, *arguments, **options):
        for batch in real(self, *arguments, **options):
            decoded.append(batch.num_rows)
            yield batch

    monkeypatch.setattr("pipelines.input.formats.parquet.BATCH_ROWS", 4)
    monkeypatch.setattr("pipelines.input.batches.BATCH_ROWS", 4)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", iter_batches)
    return decoded


ranges = st.tuples(st.sampled_from(["one", "some"]), st.integers(0, ROWS), st.integers(0, ROWS))


@given(st.lists(ranges, min_size=1, max_size=8))
@settings(deadline=None)
def test_any_order_of_slices(corpus, order):
    reader = SliceReader(InputColumns())
    for name, first, rows in order:
        rows = min(rows, ROWS - first)
        table = read(reader, Slice(corpus[name], ROWS, first, rows))
        assert table.select(["id", "text"]).equals(TABLE.slice(first, rows))


@pytest.mark.parametrize("name", ["one", "some"])
@pytest.mark.parametrize("step", [1, 5, 13, 50])
def test_no_row_is_decoded_twice(corpus, small_batches, name, step):
    reader = SliceReader(InputColumns())
    for first in range(0, ROWS, step):
        read(reader, Slice(corpus[name], ROWS, first, min(step, ROWS - first)))
    assert sum(small_batches) == ROWS


def test_rows_of_other_readers_are_passed_over_once(corpus, small_batches):
    """Two readers that share a shard decode it twice, not once per slice."""
    readers = [SliceReader(InputColumns()) for _ in range(2)]
    for i, first in enumerate(range(0, ROWS, 5)):
        table = read(readers[i % 2], Slice(corpus["one"], ROWS, first, 5))
        assert table["id"].to_pylist() == list(range(first, first + 5))
    assert sum(small_batches) <= 2 * ROWS


def test_row_groups_ahead_are_not_decoded(corpus, small_batches):
    reader = SliceReader(InputColumns())
    read(reader, Slice(corpus["some"], ROWS, 0, 2))
    read(reader, Slice(corpus["some"], ROWS, 43, 2))
    assert sum(small_batches) <= 4 + 7


def test_a_shard_that_changed_is_opened_again(tmp_path):
    old = shards(tmp_path, a=ROWS)["a"]
    reader = SliceReader(InputColumns())
    read(reader, Slice(old, ROWS, 0, 10))
    pq.write_table(TABLE.slice(20), tmp_path / "a.parquet")
    new = find_shards([str(tmp_path)])[0]
    table = read(reader, Slice(new, ROWS - 20, 10, 10))
    assert table["id"].to_pylist() == list(range(30, 40))


def test_a_reader_survives_a_bad_shard(corpus, tmp_path):
    shard = shards(tmp_path, bad=ROWS)["bad"]
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    reader = SliceReader(InputColumns())
    with pytest.raises(ShardError, match="cannot be read"):
        read(reader, Slice(shard, ROWS, 0, 10))
    with pytest.raises(ShardError, match="5 of 10 rows are gone"):
        read(reader, Slice(corpus["one"], ROWS, ROWS - 5, 10))
    table = read(reader, Slice(corpus["one"], ROWS, 0, 10))
    assert table["id"].to_pylist() == list(range(10))
