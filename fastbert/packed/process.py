"""Settings of libraries on CPUs, for the whole process.

glibc returns large blocks to the system at once, and free memory at the end of the heap now and
then. The next layer's results then need new pages, which the system fills with zeros first: half of
the time with 8-bit products, which are fast. So glibc is set to keep memory.

oneDNN compiles a product for every new size, and caches 1,024 of them. A slice in bf16 has more,
the same in every layer, so each would be evicted before its next use.
"""

import ctypes
import os
from functools import cache

#: Of glibc's <malloc.h>.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
#: Bytes of a block to keep, and the most that older releases support. The first is the size of
#: 4,096 tokens with 16,384 numbers each, in float32.
_LARGEST, _OLDER = 1 << 28, 1 << 25
#: Products that oneDNN caches; a few take 0.2 MB.
_PRODUCTS = 2048


@cache
def prepare_process() -> None:
    """Set glibc to keep freed memory, up to twice the largest block, and oneDNN to cache more
    products, if it has none yet. Settings of the user take precedence; other C libraries are
    unchanged."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_PRODUCTS))
    said = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and not said:
        _ = mallopt(MMAP_THRESHOLD, _LARGEST) or mallopt(MMAP_THRESHOLD, _OLDER)
        mallopt(TRIM_THRESHOLD, 2 * _LARGEST)
