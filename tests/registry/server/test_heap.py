import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's heaps")

HEAPS = """
import ctypes, sys, tempfile, threading
from pathlib import Path
from fusery.registry.server.heap import keep_little

if sys.argv[1] == "one":
    keep_little()
all_here = threading.Barrier(8)

def work():
    kept = [bytes(10_000) for _ in range(100)]
    all_here.wait()
    all_here.wait()
    del kept

threads = [threading.Thread(target=work) for _ in range(7)]
for thread in threads:
    thread.start()
all_here.wait()
library = ctypes.CDLL(None)
library.fopen.restype = ctypes.c_void_p
place = sys.argv[2]
file = ctypes.c_void_p(library.fopen(place.encode(), b"w"))
library.malloc_info(0, file)
library.fclose(file)
all_here.wait()
print(Path(place).read_text().count("<heap nr="))
"""

BLOCKS = """
import ctypes, sys
from fusery.registry.server.heap import keep_little

if sys.argv[1] == "little":
    keep_little()
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
library.free.argtypes = [ctypes.c_void_p]

def block(size):
    found = library.malloc(size)
    ctypes.memset(found, 1, size)
    return found

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

library.free(block(16 << 20))  # from here on glibc takes blocks as large from the heap
before = resident()
pairs = [(block(6 << 20), block(100_000)) for _ in range(16)]
for large, _ in pairs[::2]:
    library.free(large)
print(round((resident() - before) / (1 << 20)))
"""


def measured(script: str, *words: str) -> int:
    command = [sys.executable, "-P", "-c", script, *words]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_large_blocks_are_given_back_when_they_are_freed() -> None:
    assert measured(BLOCKS, "as it is") > 80
    assert measured(BLOCKS, "little") < 60


def test_threads_share_one_heap(tmp_path: Path) -> None:
    assert measured(HEAPS, "as it is", str(tmp_path / "heaps")) > 1
    assert measured(HEAPS, "one", str(tmp_path / "heaps")) == 1
