"""The columns that labelling adds to those of the input."""

import pyarrow as pa

#: Raised when the meaning or the type of an output column changes.
SCHEMA_VERSION = 1

#: What labelling adds, after the carried input columns.
OUTPUT = pa.schema(
    [
        ("label", pa.string()),  # null where `error` is set
        ("score", pa.float32()),  # probability of `label`
        ("exit_layer", pa.int8()),  # layers passed; 0: none
        ("uncertainty", pa.float32()),  # normalised entropy at the exit layer, in [0, 1]
        ("tokens", pa.int32()),  # special tokens included, after truncation
        ("flops", pa.int64()),  # 2 per multiply-add, up to the exit layer, branches included
        ("audit_label", pa.string()),  # full depth's label, null unless audited
        ("error", pa.string()),  # why the row has no label
        ("truncated", pa.bool_()),  # whether the text had more tokens
    ]
)
#: The same in outputs begun by releases that did not tell where a text was cut.
FORMER_OUTPUT = OUTPUT.remove(OUTPUT.get_field_index("truncated"))
