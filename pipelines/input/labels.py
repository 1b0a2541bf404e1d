"""Class names from Arrow columns: how all jobs read true labels."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal

import pyarrow as pa

from fastbert.errors import InputError

#: Differences that `look_alikes` ignores.
LOOKS = "blanks, case, invisible characters or the way a number is written"

#: Texts that stand for a missing label.
MISSING = {"nan", "none", "null", "nil", "<na>", "n/a", "na", "nat"}


def class_names(column: pa.ChunkedArray | pa.Array) -> list[str | None]:
    """The class of each row (n,); None for null and NaN.

    A number has one name, whatever its type: 1, 1.0 and 1.00 are "1", because pandas turns integers
    into floats if one is missing. A text is its own name, also "nan". Raises InputError for other
    types; the message begins with "is of type", and the caller puts the column before it.
    """
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return [name for chunk in chunks for name in _names(chunk)]


def _names(values: pa.Array) -> list[str | None]:
    """`class_names` of one chunk; repeated names share one string in memory."""
    kind = values.type
    if isinstance(kind, pa.BaseExtensionType):
        return _names(values.storage)
    if pa.types.is_dictionary(kind):
        known = _names(values.dictionary)
    else:
        try:
            values.validate(full=True)  # otherwise Arrow does not check UTF-8
            values = values.cast(pa.large_string()).dictionary_encode()
        except pa.ArrowException as error:
            raise InputError(f"is of type {kind}, expected numbers or UTF-8 strings") from error
        known = values.dictionary.to_pylist()
        if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            known = [_plain(number) for number in known]
    known.append(None)
    return [known[-1 if i is None else i] for i in values.indices.to_pylist()]


def _plain(text: str) -> str | None:
    """A number in digits, without superfluous zeros; None for other texts."""
    number = Decimal(text)
    if not number.is_finite():
        return None if number.is_nan() else text
    if number == number.to_integral_value():
        return str(int(number))
    return format(number, "f").rstrip("0")


def look_alikes(names: Iterable[str]) -> list[list[str]]:
    """Different names that differ only in `LOOKS`, as sorted groups of two or more; a name of
    invisible characters is a group by itself."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[look(name)].append(name)
    return [group for look, group in groups.items() if len(group) > 1 or not look]


def look(name: str) -> str:
    """A name without `LOOKS`."""
    same = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    seen = "".join(c for c in same if not (c.isspace() or unicodedata.category(c) in ("Cc", "Cf")))
    if number := re.fullmatch(r"([+-]?\d+)\.(\d*?)0*", seen):  # 1.0 and 1, 0.50 and 0.5
        return number[1] + (f".{number[2]}" if number[2] else "")
    return seen
