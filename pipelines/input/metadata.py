"""A file's metadata about its columns, as far as it holds for part of its rows.

GeoParquet (`geo`) lists columns of geometries, pandas (`pandas`) columns of its index. Other keys
are dropped: they describe the whole file, and may be wrong for its labelled rows.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

Renamed = Mapping[str, str]


def kept(metadata: Mapping[bytes, bytes] | None, renamed: Renamed) -> dict[bytes, bytes]:
    """A schema's metadata about the columns in `renamed` (input name -> output name), with new
    names. Unreadable metadata is dropped."""
    found = {}
    for key, narrowed in _KEYS.items():
        try:
            value = narrowed(json.loads((metadata or {})[key]), renamed)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
            continue
        if value:
            found[key] = json.dumps(value).encode()
    return found


def _pandas(found: dict[str, Any], renamed: Renamed) -> dict[str, Any] | None:
    """https://pandas.pydata.org/docs/development/developer.html. An index that is a range counts
    the rows of the whole file, and is dropped."""
    columns = []
    for each in found["columns"]:
        field = each.get("field_name", each["name"])
        if field in renamed:
            name = each["name"] if renamed[field] == field else renamed[field]
            columns.append(each | {"field_name": renamed[field], "name": name})
    index = [renamed[each] for each in found["index_columns"] if renamed.get(str(each))]
    return found | {"columns": columns, "index_columns": index} if columns else None


def _geo(found: dict[str, Any], renamed: Renamed) -> dict[str, Any] | None:
    """https://geoparquet.org/releases/v1.1.0. A file must have a primary geometry; `covering` names
    columns that may be missing, and only serves speed."""
    columns = {
        renamed[name]: {key: value for key, value in of.items() if key != "covering"}
        for name, of in found["columns"].items()
        if name in renamed
    }
    primary = renamed.get(found["primary_column"], next(iter(columns), None))
    return found | {"columns": columns, "primary_column": primary} if columns else None


_KEYS: dict[bytes, Callable[[dict[str, Any], Renamed], dict[str, Any] | None]] = {
    b"pandas": _pandas,
    b"geo": _geo,
}
