"""Rows and row groups: none, one, very many."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.shards import random_texts

from hostile.harness import TEXTS, Expected, Kinds, check_kind, numbered, write

KINDS = Kinds()


@KINDS.add
def zero_rows(folder: Path) -> Expected:
    return write(folder, numbered(pa.array([], pa.string())))


@KINDS.add
def zero_row_groups(folder: Path) -> Expected:
    table = numbered(pa.array([], pa.string()))
    with pq.ParquetWriter(folder / "x.parquet", table.schema):
        pass
    assert pq.read_metadata(folder / "x.parquet").num_row_groups == 0
    return Expected(good={"x": table})


@KINDS.add
def empty_row_groups_between(folder: Path) -> Expected:
    table = numbered(TEXTS)
    with pq.ParquetWriter(folder / "x.parquet", table.schema) as writer:
        for first, rows in ((0, 0), (0, 7), (7, 0), (7, 0), (7, 13), (20, 0)):
            writer.write_table(table.slice(first, rows))
    return Expected(good={"x": table}, settings={"slice_rows": 3})


@KINDS.add
def no_columns_but_the_text(folder: Path) -> Expected:
    return write(folder, pa.table({"text": TEXTS}))


@KINDS.add
def one_huge_row_group(folder: Path) -> Expected:
    expected = write(folder, numbered(random_texts(20, seed=4) * 1000), row_group_size=20_000)
    expected.settings = {"slice_rows": 1500}
    return expected


@KINDS.add
def ten_thousand_row_groups(folder: Path) -> Expected:
    expected = write(folder, numbered(random_texts(20, seed=4) * 500), row_group_size=1)
    assert pq.read_metadata(folder / "x.parquet").num_row_groups == 10_000
    expected.settings = {"slice_rows": 4000}
    return expected


@pytest.mark.parametrize("name", KINDS)
def test_kind(name, tmp_path, job):
    check_kind(KINDS[name], tmp_path, job)
