"""The heaps of the C library that this process allocates from. Only glibc's can be told something; others are left alone."""

import ctypes
import os

_ARENA_MAX = -8  # M_ARENA_MAX of malloc.h.


def limit_heaps() -> None:
    """Have all threads share one heap a processor core, unless MALLOC_ARENA_MAX says how many.

    glibc opens up to eight a core, and each keeps what was freed in it. The threads that write checkpoints come and go,
    and a long run's memory grew with the heaps that they leave behind. Only heaps that are not open yet can be saved.
    """
    library = ctypes.CDLL(None)
    if "MALLOC_ARENA_MAX" not in os.environ and hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_ARENA_MAX, os.cpu_count() or 1)


def give_back() -> None:
    """Return freed memory to the system."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
