"""Text files, compressed or not, as blocks of whole lines."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import pyarrow as pa
from isal.igzip import IGzipFile
from isal.igzip_lib import IsalError

from pipelines.input.unreadable import ShardError

#: Approximate bytes read at a time, and between two places where reading can begin.
BLOCK_BYTES = 1 << 20
_UTF8, _UTF16 = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Block:
    """Whole lines."""

    offset: int  # of its first byte, where the file is not compressed
    data: bytes

    def lines(self) -> list[bytes]:
        """Each line, with its end."""
        places = np.flatnonzero(np.frombuffer(self.data, np.uint8) == ord("\n")) + 1
        ends = [*places.tolist(), len(self.data)]
        data, starts = self.data, [0, *ends[:-1]]
        return [data[start:end] for start, end in zip(starts, ends, strict=True) if start < end]


def blocks(file: IO[bytes], compression: str | None, position: int = 0) -> Iterator[Block]:
    """The lines of a file, from the start of a line at `position` on. A byte order mark is dropped.

    Raises ShardError for UTF-16, and OSError for compressed data that is truncated or corrupt.
    """
    if compression == "gzip":
        stream: Any = IGzipFile(fileobj=file, mode="rb")  # more than twice as fast as zlib
    elif compression:
        stream = pa.CompressedInputStream(pa.PythonFile(file, mode="r"), compression)
    else:
        file.seek(position)
        stream = file
    first = position == 0
    waiting: list[bytes] = []
    while data := _read(stream):
        if first:
            first = False
            if data.startswith(_UTF16):
                raise ShardError("is UTF-16, expected UTF-8; convert it, as with iconv")
            if data.startswith(_UTF8):
                data, position = data[len(_UTF8) :], len(_UTF8)
        end = data.rfind(b"\n") + 1
        if not end:
            waiting.append(data)  # a line longer than a block
            continue
        whole = b"".join([*waiting, data[:end]])
        yield Block(position, whole)
        position += len(whole)
        waiting = [data[end:]] if end < len(data) else []
    if waiting:
        yield Block(position, b"".join(waiting))


def _read(stream: Any) -> bytes:
    try:
        data: bytes = stream.read(BLOCK_BYTES)
    except (EOFError, IsalError) as error:  # type: ignore[misc]  # typed as an object
        raise OSError(f"gzip data is truncated or corrupt: {error}") from error
    return data
