"""Types of columns in formats without types, chosen so that they can hold every value of a corpus.
A column with values of several kinds is text, with JSON for values that are not strings.
"""

import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.types as types

#: Most fields of an object, nested ones included; an object with more stays JSON.
_MOST_FIELDS = 256
#: Deepest nesting of objects and lists that becomes nested columns.
_DEEPEST = 16
#: Key of a column's metadata: not all of its values are strings in the file.
MIXED = {b"mixed": b"1"}


def settled(kind: pa.DataType, depth: int = 0) -> pa.DataType:
    """The column type for values of a type that Arrow inferred: dates stay strings, and deeply
    nested values become text."""
    if depth > _DEEPEST:
        return pa.string()
    if types.is_struct(kind):
        return pa.struct([(field.name, settled(field.type, depth + 1)) for field in kind])
    if types.is_list(kind):
        return pa.list_(settled(kind.value_type, depth + 1))
    if types.is_integer(kind):
        return pa.int64()
    if types.is_floating(kind):
        return pa.float64()
    return kind if types.is_boolean(kind) or types.is_null(kind) else pa.string()


def common(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The settled type that holds the values of both; None if only text does."""
    if one == other or types.is_null(other):
        return one
    if types.is_null(one):
        return other
    if {one, other} == {pa.int64(), pa.float64()}:
        return pa.float64()
    if types.is_list(one) and types.is_list(other):
        value = common(one.value_type, other.value_type)
        return value and pa.list_(value)
    if types.is_struct(one) and types.is_struct(other):
        fields = {field.name: field.type for field in one}
        for field in other:
            kind = common(fields.get(field.name, pa.null()), field.type)
            if kind is None:
                return None
            fields[field.name] = kind
        return pa.struct(list(fields.items()))
    return None


def merged(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """All columns of several files, in order of appearance, with types that hold all values."""
    found: dict[str, pa.Field] = {}
    for field in (field for schema in schemas for field in schema):
        known = found.get(field.name, field)
        kind = common(known.type, field.type)
        mixed = kind is None or known.metadata or field.metadata
        found[field.name] = pa.field(
            field.name, pa.string() if kind is None else kind, metadata=MIXED if mixed else None
        )
    return pa.schema([_bounded(field) for field in found.values()])


def _bounded(field: pa.Field) -> pa.Field:
    """The field, as JSON if it has too many nested fields, or none."""
    counts = _counts(field.type)
    if counts and (min(counts) == 0 or sum(counts) > _MOST_FIELDS):
        return pa.field(field.name, pa.string(), metadata=MIXED)
    return field


def _counts(kind: pa.DataType) -> list[int]:
    """The number of fields of each nested object."""
    if types.is_list(kind):
        return _counts(kind.value_type)
    if not types.is_struct(kind):
        return []
    return [kind.num_fields, *(n for field in kind for n in _counts(field.type))]


def fitted(value: Any, kind: pa.DataType) -> Any:
    """A JSON value as a value of a type; raises ValueError if the type cannot hold it."""
    if value is None:
        return None
    if types.is_string(kind):
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        text.encode()  # lone surrogates are not text
        return text
    if types.is_struct(kind) and isinstance(value, dict):
        return {field.name: fitted(value.get(field.name), field.type) for field in kind}
    if types.is_list(kind) and isinstance(value, list):
        return [fitted(each, kind.value_type) for each in value]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if types.is_boolean(kind) and isinstance(value, bool):
        return value
    if types.is_floating(kind) and number:
        return float(value)
    if types.is_integer(kind) and number and value == int(value) and -(2**63) <= value < 2**63:
        return int(value)
    raise ValueError(f"is {json.dumps(value)[:40]}, expected {kind}")
