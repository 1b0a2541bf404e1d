"""The columns that labelling adds to those of the input."""

import pyarrow as pa

from fastbert.exits.question import ANSWERS, Kind

#: Raised when the meaning or the type of an output column changes.
SCHEMA_VERSION = 1

#: Of every row, behind its answer.
_COSTS = [
    ("exit_layer", pa.int8()),  # layers passed; 0: none
    ("uncertainty", pa.float32()),  # by the point's criterion at the exit layer, in [0, 1]
    ("tokens", pa.int32()),  # special tokens included, after truncation
    ("flops", pa.int64()),  # 2 per multiply-add, up to the exit layer, branches included
]


def output_schema(
    kind: Kind = "single-label", truncated: bool = True, all_scores: bool = False
) -> pa.Schema:
    """What labelling adds, after the carried input columns, for a kind of question.

    Without `truncated` in outputs begun by releases that did not tell where a text was cut; with
    `all_scores` the probability of every class, too.
    """
    answer = ANSWERS[kind]
    audited = answer.field(0)
    fields = [
        *answer,  # null where `error` is set
        *(pa.field(*each) for each in _COSTS),
        audited.with_name(f"audit_{audited.name}"),  # full depth's, null unless audited
        pa.field("error", pa.string()),  # why the row has no answer
    ]
    if truncated:  # whether the text had more tokens
        fields.append(pa.field("truncated", pa.bool_()))
    if all_scores:
        fields.append(pa.field("scores", pa.list_(pa.float32())))
    return pa.schema(fields)
