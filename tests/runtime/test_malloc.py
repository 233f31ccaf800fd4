"""Threads share heaps."""

import platform
import subprocess
import sys

import pytest

# Threads that live at once and allocate; how many heaps of glibc they opened, by its own report.
THREADS = """
import ctypes, os, tempfile, threading
from flax_augtl.runtime import malloc
os.cpu_count = lambda: 3
malloc.limit_heaps()
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
barrier = threading.Barrier(40)
def allocate():
    library.malloc(100)
    barrier.wait()
threads = [threading.Thread(target=allocate) for _ in range(40)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
library.fopen.restype = ctypes.c_void_p
path = tempfile.mktemp()
file = ctypes.c_void_p(library.fopen(path.encode(), b"w"))
library.malloc_info(0, file)
library.fclose(file)
print(open(path).read().count("<heap nr="))
os.remove(path)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have their own ways")
@pytest.mark.parametrize(("environment", "heaps"), [({}, 3), ({"MALLOC_ARENA_MAX": "5"}, 5)])
def test_all_threads_share_a_heap_a_core(environment, heaps):
    found = subprocess.run([sys.executable, "-c", THREADS], env=environment, capture_output=True, text=True, check=True)
    assert int(found.stdout) == heaps
