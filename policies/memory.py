"""What torch's tensors on the CPU are allocated from: memory that the process keeps between gradient steps."""

from __future__ import annotations

import ctypes
import platform
from functools import cache

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # mallopt(3)
KEPT = 2**30  # bytes of freed memory that stay with the process
LARGEST = 2**25  # bytes from which a block is the kernel's own; glibc takes no more


@cache
def keep_freed_memory() -> bool:
    """Let malloc keep what is freed, up to `KEPT` bytes, for the whole process. Does malloc know how?

    The tensors of a gradient step are some hundred kilobytes each, which glibc gives back to the kernel as they are
    freed, and gets again with every page to be cleared: 600 page faults and a tenth of the time of a step of SAC with
    two layers of 256 units.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(MMAP_THRESHOLD, LARGEST)) and bool(mallopt(TRIM_THRESHOLD, KEPT))
