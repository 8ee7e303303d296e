import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's heaps")

HEAPS = """
import ctypes, sys, tempfile, threading
from pathlib import Path
from fusery.registry.server.heap import share_one_heap

if sys.argv[1] == "one":
    share_one_heap()
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


def test_threads_share_one_heap(tmp_path: Path) -> None:
    def heaps(how: str) -> int:
        command = [sys.executable, "-P", "-c", HEAPS, how, str(tmp_path / how)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert heaps("as it is") > 1
    assert heaps("one") == 1
