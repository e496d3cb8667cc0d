"""Memory that is new by construction, whatever earlier tests have left free in the heap."""

from __future__ import annotations

import mmap

MB = 1_000_000


def new_memory(megabytes: int) -> mmap.mmap:
    """Return so much new memory, all of it written; close it to give it back.

    A bytearray of the same size may be what others left free, and then is resident already.
    """
    memory = mmap.mmap(-1, megabytes * MB)
    for offset in range(0, len(memory), mmap.PAGESIZE):
        memory[offset] = 1
    return memory
