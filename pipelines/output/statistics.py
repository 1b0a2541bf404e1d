"""Measurements of a slice, and everything that follows from them.

Each measurement is declared once, as a field of `SliceStats`. From the fields follow the ledger's
record and its checks, the columns of `stats/` and of the views `slices` and `runs`, a run's totals,
and the counters for Prometheus.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from itertools import chain
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pyarrow as pa
from msgspec import Meta

#: Kinds of measurements. Each fits the columns of the statistics.
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Flops = Annotated[int, Meta(ge=0, le=2**63 - 1, title="a billion rows exceed 64 bits")]
Seconds = Annotated[float, Meta(ge=0, lt=2**63)]
Text = Annotated[str, Meta(pattern=r"\A[^\0\ud800-\udfff]+\Z")]

#: Number of equal parts of [0, 1] into which an exit's uncertainties are counted.
UNCERTAINTY_BINS = 20

#: Beginnings of errors not caused by the text: the row may get its label another time.
_OF_THE_MODEL = ("the model", "the tokenizer", "given up")

#: Scope of a measurement: a slice, an exit, or a slice's rows with errors.
Per = Literal["slice", "exit", "errors"]


@dataclass(frozen=True)
class Measure:
    """How one measurement is stored and summed."""

    name: str  # of its field
    kind: Any  # and its type
    meaning: str
    per: Per = "slice"
    #: Name in `stats/`, if not derived from field and `per`; None for no column.
    column: str | None = ""
    #: Name of its sum in a run's summary and in the view `runs`; the sum may be per exit.
    total: str = ""
    by_exit: bool = False
    #: Prometheus counts it.
    exported: bool = False
    #: Every ledger so far has it. If not required, its default replaces a missing one.
    required: bool = False

    @classmethod
    def of(cls, field: Field[Any]) -> "Measure":
        """The measure that a field of `SliceStats` declares."""
        measure = cls(field.name, _KINDS[field.name], **field.metadata)
        prefixed = {"slice": f"slice_{field.name}", "exit": field.name.removeprefix("exit_")}
        usual = prefixed.get(measure.per, field.name)
        return replace(measure, column=usual if measure.column == "" else measure.column)

    @property
    def summed(self) -> Any:
        """The type of its sum."""
        apart = self.per != "exit" or self.by_exit
        return self.kind if apart else get_args(self.kind)[0]

    def sum(self, records: Sequence["SliceStats"]) -> Any:
        """The sum over slices and, unless the sum is per exit, over exits."""
        values = [getattr(record, self.name) for record in records]
        apart = self.summed == self.kind
        return _sum(self.summed, values if apart else [*chain.from_iterable(values)])

    def together(self, sums: list[Any]) -> Any:
        """The sum over all slices, of sums over some."""
        return _sum(self.summed, sums)


def _sum(kind: Any, values: list[Any]) -> Any:
    if get_origin(kind) is dict:
        merged: Counter[str] = Counter()
        for counts in values:
            merged.update(counts)
        return dict(merged.most_common())
    if get_origin(kind) is list:
        return [_sum(get_args(kind)[0], list(some)) for some in zip(*values, strict=True)]
    return sum(values)


def of_the_model(errors: Mapping[str, int]) -> int:
    """Number of rows whose error is not caused by their text, given rows by reason."""
    return sum(rows for reason, rows in errors.items() if reason.startswith(_OF_THE_MODEL))


def measured(default: Any, meaning: str, per: Per = "slice", **more: Any) -> Any:
    """A field of `SliceStats`: its default or factory, and the parts of its `Measure`."""
    known = {"default_factory" if callable(default) else "default": default}
    return field(**known, metadata={"meaning": meaning, "per": per, **more})


@dataclass(frozen=True, kw_only=True)
class SliceStats:
    """Measurements of one slice; lists have one entry per exit, in the order of depth.

    The stages start with an empty one and fill it in.
    """

    # fmt: off
    error_rows: Count = measured(0, "Rows committed with an error.", column=None,
                                 total="error_rows", exported=True, required=True)
    model_errors: Count = measured(
        0, "Of these, rows whose error is not their text's own.", total="model_errors")
    quarantined: bool = measured(False, "It was given up: all of its rows have an error.",
                                 total="quarantined_slices")
    retries: Count = measured(0, "Times something was done again after a fault.",
                              total="retries", exported=True)
    tokens: Count = measured(0, "Tokens labelled.", column=None,
                             total="tokens", exported=True, required=True)
    truncated_rows: Count = measured(0, "Rows whose text was longer than the model reads.",
                                     total="truncated_rows", exported=True)
    exit_depths: list[Count] = measured(list, "Layers before each exit; none: 1, 2, ... L.",
                                        column=None)
    exits: list[Count] = measured(list, "Rows by exit layer.", "exit", column="rows",
                                  total="exits", by_exit=True, exported=True, required=True)
    exit_tokens: list[Count] = measured(list, "Their tokens.", "exit", required=True)
    exit_labels: list[dict[str, Count]] = measured(list, "Their labels.", "exit", total="labels")
    exit_uncertainties: list[list[Count]] = measured(
        list, f"Rows by uncertainty, in {UNCERTAINTY_BINS} equal parts of [0, 1].", "exit")
    exit_answers: list[dict[str, Count]] = measured(
        list, "Of several questions: rows by question that is answered there.", "exit",
        total="answers", by_exit=True)
    exit_agreements: list[dict[str, Count]] = measured(
        list, "Of several questions: audited ones of these with full depth's answer.", "exit",
        total="agreements", by_exit=True)
    exit_audit_rows: list[Count] = measured(list, "Audited rows.", "exit")
    exit_audit_agreements: list[Count] = measured(
        list, "Of these, rows whose label is that of full depth.", "exit")
    exit_flops: list[Flops] = measured(list, "Floating-point operations done.", "exit",
                                       total="flops", exported=True, required=True)
    full_flops: Flops = measured(
        0, "Floating-point operations the same rows would take at full depth.",
        total="full_flops", exported=True, required=True)
    audit_rows: Count = measured(0, "Rows that ran to full depth as well.",
                                 total="audit_rows", exported=True, required=True)
    audit_agreements: Count = measured(0, "Of these, rows whose label is that of full depth.",
                                       exported=True, required=True)
    audit_flops: Flops = measured(0, "What the audit cost on top.",
                                  total="audit_flops", required=True)
    read_seconds: Seconds = measured(0.0, "Seconds of reading.", required=True)
    tokenize_seconds: Seconds = measured(0.0, "Seconds of tokenizing.", required=True)
    device_seconds: Seconds = measured(0.0, "Seconds of work of replicas.",
                                       total="device_seconds", exported=True, required=True)
    commit_seconds: Seconds = measured(0.0, "Seconds of publishing.", required=True)
    device: Text = measured("none", "What the model ran on.", column="device", required=True)
    precision: Text = measured("none", "Of its numbers.", column="precision", required=True)
    errors: dict[str, Count] = measured(dict, "Rows by reason, the most frequent.", "errors")
    # fmt: on

    @property
    def depths(self) -> list[int]:
        """The depth of each exit, in layers."""
        return self.exit_depths or list(range(1, len(self.exits) + 1))


_KINDS = get_type_hints(SliceStats, include_extras=True)
MEASURES = [Measure.of(each) for each in fields(SliceStats)]
PER_SLICE = [m for m in MEASURES if m.per == "slice" and m.column]
PER_EXIT = [m for m in MEASURES if m.per == "exit" and m.column]
PER_ERRORS = [m for m in MEASURES if m.per == "errors" and m.column]
TOTALS = [m for m in MEASURES if m.total]

_ARROW = {
    **{Count: pa.int64(), Flops: pa.int64(), Seconds: pa.float64(), Text: pa.string()},
    **{int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_()},
}
_SUMS = _ARROW | {Flops: pa.decimal128(38), bool: pa.int64()}


def arrow(kind: Any, summed: bool = False) -> pa.DataType:
    """The column type of a field's type, or of its sum."""
    inner = get_args(kind)
    if get_origin(kind) is list:
        return pa.list_(arrow(inner[0], summed))
    if get_origin(kind) is dict:
        return pa.map_(arrow(inner[0]), arrow(inner[1]))
    known: pa.DataType = (_SUMS if summed else _ARROW)[kind]
    return known
