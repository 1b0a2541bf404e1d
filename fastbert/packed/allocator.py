"""Memory of results, kept by the C library from one layer to the next.

glibc gives large blocks back to the system at once, and what lies free at the end of the heap now
and then. The next layer's results are then new pages, which the system fills with zeros first: with
8-bit products, which are fast, half of the time.
"""

import ctypes
import os
from functools import cache

#: Of glibc's <malloc.h>.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
#: Bytes of a block that is kept, and the most that older releases take for it. The first is what a
#: way up to 16,384 numbers gives of 4,096 tokens, in float32.
_LARGEST, _OLDER = 1 << 28, 1 << 25


@cache
def keep_memory() -> None:
    """Have glibc keep what is given back, for the whole process, up to twice the largest block;
    with another library, or where the user has said something, nothing changes."""
    said = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and not said:
        _ = mallopt(MMAP_THRESHOLD, _LARGEST) or mallopt(MMAP_THRESHOLD, _OLDER)
        mallopt(TRIM_THRESHOLD, 2 * _LARGEST)
