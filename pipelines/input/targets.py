"""Targets from a column: a label, several labels, a score, or probabilities of classes.

Letters: n rows, N classes.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as types

from fastbert.errors import InputError
from fastbert.exits.question import Kind
from pipelines.input.columns import listed
from pipelines.input.labels import LOOKS, class_names, look

#: Largest distance from 1 of the sum of a row's probabilities.
_ROUNDED = 0.01
#: What to do about missing labels.
_DROP = "fill it, name another one with --label-column, or drop those rows"


class Targets:
    """Collects the targets of rows as they are read, for one kind of question."""

    def __init__(self, column: str, kind: Kind | None) -> None:
        """For a column; without a kind, the type of the first rows decides."""
        self.column, self.kind = column, kind
        self._given: list[Any] = []
        #: Of probabilities: the classes, named by a struct's fields.
        self._fields: list[str] | None = None
        self._chances: bool | None = None  # not known yet

    def add(self, values: pa.ChunkedArray) -> None:
        """Add rows. Raises InputError for a type that does not fit the kind; the message begins
        with "is of type", and the caller puts the column before it."""
        plain = _plain(values)
        if types.is_null(plain.type):
            self._given += [None] * len(plain)
            return
        chances = _are_chances(plain.type)
        if self._chances not in (None, chances):
            raise InputError(f"is of type {plain.type}, expected that of the shards before")
        self._chances = chances
        if chances:
            self._given += self._chances_of(plain)
            return
        kind = self.kind = self.kind or _kind_of(plain.type)
        self._given += _READ[kind](plain)

    def _chances_of(self, values: pa.Array) -> list[list[float] | None]:
        """A number for each class; of a struct, in the order of the first one's fields."""
        rows: list[Any] = values.to_pylist()
        if types.is_struct(values.type):
            fields = [field.name for field in values.type]
            self._fields = self._fields or fields
            if sorted(fields) != sorted({*self._fields}):
                raise InputError(
                    f"is of type {values.type}, expected a number for each of "
                    f"{listed(self._fields)}, each once"
                )
            rows = [row and [row[name] for name in self._fields] for row in rows]
        return [
            [float(number) for number in row]
            if row is not None and all(map(_finite, row))
            else None
            for row in rows
        ]

    def finish(self, names: list[str] | None) -> tuple[list[str], list[Any]]:
        """The class names, given or found and sorted, and the targets of all rows. Raises
        InputError for rows without a target, and for classes that are not among the names."""
        if missing := sum(value is None for value in self._given):
            raise InputError(
                f"{missing:,} of {len(self._given):,} rows have no label in column "
                f"'{self.column}'; {_DROP}"
            )
        if self._chances:
            return self._of_chances(names)
        if self.kind == "score":
            return names or [self.column], self._given
        several = self.kind == "several-labels"
        known = {*_flat(self._given)} if several else {*self._given}
        names = names or sorted(known)
        if unknown := sorted(known - {*names}):
            alike = [name for name in names if look(name) == look(unknown[0])]
            raise InputError(
                f"label {unknown[0]!r} in column '{self.column}' is not one of the model's: "
                f"{listed(names)}" + (f"; it differs from {alike[0]!r} only in {LOOKS}: write it "
                                      "alike" if alike else "")
            )  # fmt: skip
        index = {name: i for i, name in enumerate(names)}
        if not several:
            return names, [index[name] for name in self._given]
        if not names:
            raise InputError(f"no row has a label in column '{self.column}'; {_DROP}")
        hot = np.zeros((len(self._given), len(names)), np.float32)
        for row, some in enumerate(self._given):
            hot[row, [index[name] for name in some]] = 1.0
        return names, hot.tolist()

    def _of_chances(self, names: list[str] | None) -> tuple[list[str], list[Any]]:
        """Probabilities as they are; if their kind is unknown, it is a single label if they add up
        to 1."""
        sizes = {len(row) for row in self._given}
        found = self._fields or [str(k) for k in range(max(sizes))]
        names = names or found
        if len(sizes) > 1 or len(found) != len(names) or (self._fields and {*found} != {*names}):
            raise InputError(
                f"column '{self.column}' has numbers for the classes {listed(found)}, expected one "
                f"for each of {listed(names)} in every row"
            )
        order = [found.index(name) for name in names] if self._fields else range(len(names))
        chances = np.array(self._given, np.float64)[:, list(order)]
        if self.kind == "score" or not ((chances >= 0) & (chances <= 1)).all():
            raise InputError(
                f"column '{self.column}' has lists of numbers, expected probabilities from 0 to 1, "
                "of one label or, with --task several-labels, of each; a score is a number in each "
                "row"
            )
        add_up = np.abs(chances.sum(1) - 1) <= _ROUNDED
        if self.kind is None and not add_up.all():
            raise InputError(
                f"column '{self.column}' has probabilities of classes that do not add up to 1 in "
                f"{int((~add_up).sum()):,} of {len(add_up):,} rows: pass --task several-labels if "
                "each is a separate label, --task single-label if the largest counts"
            )
        self.kind = self.kind or "single-label"
        if self.kind == "single-label":
            if none := int((chances.sum(1) == 0).sum()):
                raise InputError(
                    f"{none:,} of {len(chances):,} rows have no label in column '{self.column}', "
                    f"as all probabilities are 0; {_DROP}"
                )
            chances /= chances.sum(1, keepdims=True)
        return names, chances.astype(np.float32).tolist()


def _plain(values: pa.ChunkedArray) -> pa.Array:
    """In one piece, without a dictionary or an extension around it."""
    if isinstance(values.type, pa.BaseExtensionType):
        values = pa.chunked_array([c.storage for c in values.chunks], values.type.storage_type)
    if types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    return values.combine_chunks()


def _is_list(kind: pa.DataType) -> bool:
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _are_chances(kind: pa.DataType) -> bool:
    if types.is_struct(kind):
        return kind.num_fields > 0 and all(_is_fraction(field.type) for field in kind)
    return _is_list(kind) and _is_fraction(kind.value_type)


def _is_fraction(kind: pa.DataType) -> bool:
    return bool(types.is_floating(kind) or types.is_decimal(kind))


def _kind_of(kind: pa.DataType) -> Kind:
    if _is_list(kind):
        return "several-labels"
    return "score" if _is_fraction(kind) else "single-label"


def _is_text(kind: pa.DataType) -> bool:
    values = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(values) or types.is_large_string(values))


def _lists(values: pa.Array) -> list[list[str] | None]:
    """The labels of each row, each once."""
    if not _is_list(values.type):
        raise InputError(f"is of type {values.type}, expected lists of strings")
    names = class_names(values.flatten())
    lengths = pc.list_value_length(values).to_pylist()
    rows: list[list[str] | None] = []
    start = 0
    for length in lengths:
        some = names[start : start + (length or 0)]
        start += length or 0
        known = dict.fromkeys(name for name in some if name is not None)
        if len(known) < len(some) and not _is_text(values.type.value_type):
            raise InputError(
                f"is of type {values.type} and has a value twice in a row, such as 0 or 1 for each "
                "class; cast it to lists of floating-point numbers, and pass --task several-labels"
            )
        rows.append(None if length is None or None in some else [*known])
    return rows


def _numbers(values: pa.Array) -> list[float | None]:
    if not (types.is_integer(values.type) or types.is_floating(values.type)
            or types.is_decimal(values.type)):  # fmt: skip
        raise InputError(f"is of type {values.type}, expected numbers")
    found = values.cast(pa.float64(), safe=False).to_pylist()
    return [number if number is not None and math.isfinite(number) else None for number in found]


def _finite(number: float | None) -> bool:
    return number is not None and math.isfinite(number)


def _flat(rows: list[list[str]]) -> Iterable[str]:
    return (name for row in rows for name in row)


#: By kind, how to read a column's values; None for rows without one.
_READ: dict[Kind, Callable[[Any], list[Any]]] = {
    "single-label": class_names,
    "several-labels": _lists,
    "score": _numbers,
}
