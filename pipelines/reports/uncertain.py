"""The rows that the model was least certain of, with their texts, to check first."""

import json
from contextlib import closing
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.input.columns import InputColumns
from pipelines.input.shards import Shard, find_shards
from pipelines.input.slices import Slice, SliceReader
from pipelines.input.texts import decode
from pipelines.input.unreadable import ShardError
from pipelines.output.ledger import Ledger
from pipelines.output.record import slice_of
from pipelines.output.storage import Storage
from pipelines.reports.analytics import Analytics

#: Characters shown of a text.
_SHOWN = 300


def least_certain(found: Analytics, rows: int, inputs: list[str]) -> pd.DataFrame:
    """The `rows` rows with the highest uncertainty at their exit, the highest first: label, score,
    layer, shard and row in it, and, from the shards of `inputs`, the text. Scans the table."""
    frame = found.least_certain(rows)
    slices = [slice_of(path) or ("", 0) for path in frame.pop("path")]
    frame["shard"] = [shard for shard, _ in slices]
    frame["row"] = [first + row for (_, first), row in zip(slices, frame["row"], strict=True)]
    if inputs and len(frame):
        commits = _commits(found.storage, slices)
        shards = {shard.name: shard for shard in find_shards(inputs)}
        places = zip(slices, frame["row"], strict=True)
        texts = [_text(shards.get(key[0]), commits.get(key), row) for key, row in places]
        frame.insert(0, "text", texts)
    return frame


def _commits(storage: Storage, slices: list[tuple[str, int]]) -> dict[tuple[str, int], Any]:
    """The commits of these slices."""
    commits = Ledger(storage).committed().commits
    some = commits.filter(pc.is_in(commits["shard"], pa.array({name for name, _ in slices})))
    return {(each["shard"], each["first_row"]): each for each in some.to_pylist()}


def _text(shard: Shard | None, commit: Any, row: int) -> str:
    """The text of a row, or, in brackets, why it is unknown."""
    if shard is None or shard.problem is not None or commit is None:
        return "(its shard is not in --text-from)"
    if not shard.has_version(commit["version"]):
        return "(its shard has changed since)"
    recipe = json.loads(commit["recipe"])
    columns = InputColumns(recipe["text_column"], recipe["pair_column"], carry=())
    piece = Slice(shard, commit["shard_rows"], row, 1)
    try:
        with closing(SliceReader(columns)) as reader:
            table = pa.concat_tables(reader.read(piece))
    except ShardError as error:
        return f"({error})"
    text = " | ".join(decode(table[name])[0][0] for name in columns.texts)
    return f"{text[:_SHOWN]} …" if len(text) > _SHOWN else text
