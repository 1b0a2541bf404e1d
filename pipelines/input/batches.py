"""How much is in memory at a time: rows and bytes per batch."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

#: Rows, and about how many bytes, to tokenize at a time, so that neither a huge row group nor huge
#: texts fill the memory.
BATCH_ROWS, BATCH_BYTES = 4096, 64 << 20

Item = TypeVar("Item")


def together(
    items: Iterable[Item],
    weight: Callable[[Item], tuple[int, int]],
    most_rows: int | None = None,
) -> Iterator[list[Item]]:
    """Neighbours of few rows, BATCH_ROWS by default, and bytes together; `weight` tells both."""
    most = most_rows or BATCH_ROWS
    some: list[Item] = []
    rows = size = 0
    for item in items:
        more, larger = weight(item)
        rows, size = rows + more, size + larger
        if some and (rows > most or size > BATCH_BYTES):
            yield some
            some, rows, size = [], more, larger
        some.append(item)
    if some:
        yield some
