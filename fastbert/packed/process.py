"""What the engine asks of libraries on CPUs, for the whole process.

glibc gives large blocks back to the system at once, and what lies free at the end of the heap now
and then. The next layer's results are then new pages, which the system fills with zeros first: with
8-bit products, which are fast, half of the time. So it is told to keep them.

oneDNN compiles a product for every size it meets, and remembers 1,024 of them. A slice in bf16 has
more, layer after layer the same, so that each would be forgotten before it is met again.
"""

import ctypes
import os
from functools import cache

#: Of glibc's <malloc.h>.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
#: Bytes of a block that is kept, and the most that older releases take for it. The first is what a
#: way up to 16,384 numbers gives of 4,096 tokens, in float32.
_LARGEST, _OLDER = 1 << 28, 1 << 25
#: Products that oneDNN remembers; some take 0.2 MB.
_PRODUCTS = 2048


@cache
def prepare_process() -> None:
    """Have glibc keep what is given back, up to twice the largest block, and oneDNN more products,
    if it has none yet. What the user has said about either counts; other libraries are left."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_PRODUCTS))
    said = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and not said:
        _ = mallopt(MMAP_THRESHOLD, _LARGEST) or mallopt(MMAP_THRESHOLD, _OLDER)
        mallopt(TRIM_THRESHOLD, 2 * _LARGEST)
