import platform
import subprocess
import sys

import pytest

from fusery.registry.runtime.switching import give_back

pytestmark = [
    pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's heaps"),
    pytest.mark.timing,
]
BLOCKS = """
import ctypes, sys
from fusery.registry.runtime.switching import keep_little

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


def measured(word: str) -> int:
    command = [sys.executable, "-P", "-c", BLOCKS, word]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_large_blocks_are_given_back_when_they_are_freed() -> None:
    assert measured("as it is") > 80
    assert measured("little") < 60


def test_memory_that_mlx_kept_is_given_back() -> None:
    mx = pytest.importorskip("mlx.core")
    mx.eval(mx.zeros(1 << 22))
    assert mx.get_cache_memory() > 0
    give_back()
    assert mx.get_cache_memory() == 0
