"""Cap glibc's malloc arenas, and return freed memory; no-op with other C libraries."""

import ctypes
import os

_ARENA_MAX = -8  # M_ARENA_MAX of malloc.h.


def limit_heaps() -> None:
    """Limit the number of malloc arenas to the number of CPU cores, unless MALLOC_ARENA_MAX is set.

    glibc opens up to eight arenas per core, and each keeps its freed memory. Threads that write checkpoints come and go,
    and leave such arenas behind, so that the memory of long runs grew. The limit does not close arenas that are open.
    """
    library = ctypes.CDLL(None)
    if "MALLOC_ARENA_MAX" not in os.environ and hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_ARENA_MAX, os.cpu_count() or 1)


def give_back() -> None:
    """Return freed memory to the operating system."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
