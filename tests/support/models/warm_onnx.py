"""An interpreter that has imported the exporter of ONNX, which takes 10 seconds: each start is a fork of one process."""

from __future__ import annotations

import atexit
import json
import os
import runpy
import select
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

_CLIENT = """#!{python} -IS
import json, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    words = [word for word in sys.argv[1:] if word not in ("-P", "-E", "-B")]
    socket.send_fds(server, [json.dumps(words).encode()], [0, 1, 2])
    sys.exit(int(server.recv(9) or b"1"))
"""


@cache
def warm_python(python: Path) -> Path:
    """Return a program that runs `-P -E -B PROGRAM WORD` as this interpreter does."""
    folder = tempfile.TemporaryDirectory()
    address, client = f"{folder.name}/socket", Path(folder.name, "python")
    server = subprocess.Popen(
        [python, __file__, address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    atexit.register(folder.cleanup)
    atexit.register(server.communicate)
    assert server.stdout is not None and server.stdout.readline(), "it does not start"
    client.write_text(_CLIENT.format(python=sys.executable, address=address))
    client.chmod(0o755)
    return client


def _serve(address: str) -> None:
    import onnxruntime
    import onnxruntime_genai.models.builder
    import torch
    import transformers

    assert all((onnxruntime, onnxruntime_genai, torch, transformers.AutoModelForCausalLM))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        os.write(1, b"ready\n")
        while listener in select.select([listener, sys.stdin], [], [])[0]:
            with listener.accept()[0] as client:
                words, descriptors, *_ = socket.recv_fds(client, 1 << 16, 3)
                if (child := os.fork()) == 0:
                    for number, descriptor in enumerate(descriptors):
                        os.dup2(descriptor, number)
                    os.closerange(3, 1024)
                    sys.argv = json.loads(words)
                    runpy.run_path(sys.argv[0], run_name="__main__")
                    os._exit(0)
                for descriptor in descriptors:
                    os.close(descriptor)
                client.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    _serve(sys.argv[1])
