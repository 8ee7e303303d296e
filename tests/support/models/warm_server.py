"""The process that `warm_python.py` starts, and what asks it; run by an interpreter with the exporter's packages.

    python warm_server.py serve SOCKET                    import them, and run what is asked for until stdin ends
    python warm_server.py ask SOCKET -OPTION... PROGRAM   run a program with all words that follow, and end as it does

Options are not looked at: the server is started with those of the product.
"""

import json
import os
import socket
import sys
from contextlib import suppress


def ask(place: str, words: list[str]) -> int:
    """Let the server run a program with the files of this process, and return its code."""
    while words[0].startswith("-"):
        del words[0]
    job = {"words": words, "environment": dict(os.environ), "folder": os.getcwd()}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(place)
        socket.send_fds(connection, [b"\n"], [0, 1, 2])
        connection.sendall(json.dumps(job).encode())
        connection.shutdown(socket.SHUT_WR)
        said = connection.recv(1)
    return said[0] if said else 1  # it was killed


def serve(place: str) -> None:
    """Import what an export needs, and fork for each program."""
    import gc
    import select

    gc.disable()  # what is imported stays, and is not to be looked through, here or in each process
    _import()
    gc.freeze()
    gc.enable()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place)
        listener.listen()
        os.write(1, b"ready\n")
        while True:
            ready, *_ = select.select([listener.fileno(), 0], [], [])
            if 0 in ready:
                break
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                connection.sendall(bytes([_run(connection)]))
                os._exit(0)
            connection.close()
    with suppress(ChildProcessError):  # when there are no more
        while True:
            os.wait()


def _import() -> None:
    """Import the exporter's package, which runs nothing under another name, and what classes of models are loaded by."""
    import runpy

    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    from transformers import AutoModelForCausalLM, LlamaForCausalLM  # noqa: F401

    runpy.run_module("onnxruntime_genai.models.builder", run_name="warmed")


def _run(connection: socket.socket) -> int:
    """Become the process that was asked for, run its program and return its code."""
    import runpy
    import traceback

    _, files, *_ = socket.recv_fds(connection, 1, 3)
    job = json.load(connection.makefile("rb"))
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.setsid()
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environment"])
    sys.argv = job["words"]
    code = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - as an interpreter does
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    if sys.argv[1] == "ask":
        sys.exit(ask(sys.argv[2], sys.argv[3:]))
    serve(sys.argv[2])
