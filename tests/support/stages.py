"""The three stages of labelling in this process, with its trips between processes, without Ray."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache

from fastbert.exits.operating_point import OperatingPoint
from pipelines.input.columns import InputColumns
from pipelines.input.slices import Slice
from pipelines.labelling.classify import Label
from pipelines.labelling.read import ReadTokenize
from pipelines.labelling.work import Work
from pipelines.output.ledger import Record
from support.shards import random_texts

MAX_LENGTH = 32
TEXTS = [None, *random_texts(20, seed=3), "", "  \t", *random_texts(9, seed=4)]
ROWS = len(TEXTS)


def run(shard, checkpoint, first=0, rows=ROWS, thresholds=(0.5, 0.5), audit=0.0) -> Work:
    piece = Slice(shard, len(TEXTS), first, rows)
    read = ReadTokenize(checkpoint, MAX_LENGTH, InputColumns())
    label = Label(checkpoint, OperatingPoint("", list(thresholds)), audit, "fp32", threads=1)
    return label(Work.from_block(read(Work(piece)).to_block()))


@cache
def labeller(checkpoint: str, thresholds: tuple[float, ...]) -> Label:
    """The replica, loaded once."""
    return Label(checkpoint, OperatingPoint("", list(thresholds)), 0.0, "fp32", threads=1)


@cache
def reader(checkpoint: str, max_length: int, columns: InputColumns) -> ReadTokenize:
    """The reader, loaded once; it keeps its place between jobs, as actors do between slices."""
    return ReadTokenize(checkpoint, max_length, columns)


def in_process(
    slices, settings, point, max_length, columns, commit, share
) -> Iterator[Record | Work]:
    """`run_stages` without Ray."""
    read = reader(settings.model, max_length, columns)
    model = labeller(settings.model, tuple(point.thresholds))
    for piece in slices:
        block = Work(piece).to_block()
        for stage in (read, model):
            block = stage(Work.from_block(block)).to_block()
        work = Work.from_block(block)
        record = commit(work)
        yield work if record is None else Record(**json.loads(json.dumps(asdict(record))))
