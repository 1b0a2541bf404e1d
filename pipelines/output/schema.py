"""The columns that labelling adds to those of the input."""

from collections.abc import Mapping
from types import MappingProxyType

import pyarrow as pa

from fastbert.exits.question import ANSWERS, Kind, prefix

#: Raised when the meaning or the type of an output column changes.
SCHEMA_VERSION = 1

#: Columns of every answer, and of every row.
_SURE = [
    ("exit_layer", pa.int8()),  # layers passed; 0: none
    ("uncertainty", pa.float32()),  # by the point's criterion at the exit layer, in [0, 1]
]
_COSTS = [
    ("tokens", pa.int32()),  # special tokens included, after truncation
    ("flops", pa.int64()),  # 2 per multiply-add, up to the exit layer, branches included
]


def output_schema(
    kinds: Mapping[str, Kind] = MappingProxyType({"": "single-label"}),
    truncated: bool = True,
    all_scores: bool = False,
    windows: bool = False,
) -> pa.Schema:
    """The columns after the carried input columns, for kinds of questions, by name. `truncated` is
    missing in outputs begun by releases without that column; `all_scores` adds the probability of
    every class, and `windows` the number of windows read.
    """
    audits, fields = [], []
    for name, kind in kinds.items():
        answer = ANSWERS[kind]
        audit = answer.field(0).with_name(f"audit_{answer.field(0).name}")
        own = [*answer, *(pa.field(*each) for each in _SURE)]  # null where `error` is set
        if name:
            fields += [_of(name, field) for field in [*own, audit]]
        else:
            fields += own
            audits = [audit]  # full depth's answer; null if not audited
    if "" not in kinds:
        fields.append(pa.field(*_SURE[0]))  # where the row left
    fields += [pa.field(*each) for each in _COSTS] + audits
    fields.append(pa.field("error", pa.string()))  # why the row has no answer
    if truncated:  # whether the text had more tokens
        fields.append(pa.field("truncated", pa.bool_()))
    if windows:
        fields.append(pa.field("windows", pa.int32()))
    if all_scores:
        scores = pa.field("scores", pa.list_(pa.float32()))
        fields += [_of(name, scores) for name, kind in kinds.items() if kind != "score"]
    return pa.schema(fields)


def _of(name: str, field: pa.Field) -> pa.Field:
    """A question's column."""
    return field.with_name(prefix(name) + field.name)
