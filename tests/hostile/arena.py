"""Where hostile inputs meet the real commands: one registry, whose every byte is looked at again after each attempt."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import tiny_models
from hostile.configurations import PEFT

from fusery.cli.main import run

HANG = 20.0
"""Seconds of processor time after which a command hangs; `_WAITS` times as many of the clock."""

_WAITS = 6

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class HangError(BaseException):
    """A command hangs.  No `Exception`: what catches errors must not take it for one."""


@dataclass(frozen=True, slots=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Arena:
    def __init__(self, home: Path, scratch: Path) -> None:
        self.home, self._scratch = home, scratch
        self.base = tiny_models.make_base(scratch / "tiny", layers=2, hidden=64, intermediate=64)
        self.adapter = tiny_models.make_adapter(scratch / "good", self.base)
        self.fusery("base", "add", self.base, "--name", "tiny")
        self.before = self.bytes()

    def fusery(self, *words: str | Path, home: Path | None = None) -> Ran:
        arguments = ["--registry", str(home or self.home), *map(str, words)]
        # Strict about what a terminal of UTF-8 cannot show, as `click.echo` finds it there.
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="") for _ in range(2))
        with redirect_stdout(out), redirect_stderr(err), hang_guard(HANG):
            code = run(arguments)
        texts = []
        for stream in (out, err):
            stream.flush()
            texts.append(stream.buffer.getvalue().decode("utf-8"))  # type: ignore[attr-defined]
        return Ran(code, *texts)

    def offer(self, folder: Path, *, show: bool = True) -> list[str]:
        checked = self.fusery("check", folder, "--base", "tiny", "--json")
        require_plain(checked)
        document = checked.json
        if "error" in document:
            assert checked.code == 2, checked
            codes = [require_sentence(document["error"])]
        else:
            assert checked.code == 1, f"it would be let in: {document}"
            assert document["verdict"] == "fail"
            errors = [finding for finding in document["findings"] if finding["severity"] == "error"]
            codes = [require_sentence(finding) for finding in errors]
        if show:
            shown = self.fusery("check", folder, "--base", "tiny")
            require_plain(shown)
            assert shown.code == checked.code
        registered = self.fusery("register", folder, "--base", "tiny", "--task", "evil")
        require_plain(registered)
        assert (registered.code, registered.out) == (2, ""), registered
        assert registered.err.startswith("Error: "), registered
        self.require_unchanged()
        return codes

    def offer_base(self, source: Path) -> str:
        added = self.fusery("base", "add", source, "--name", "evil", "--json")
        require_plain(added)
        assert added.code == 2, added
        self.require_unchanged()
        return require_sentence(added.json["error"])

    def bytes(self) -> dict[str, str]:
        found = {}
        for folder, _, files in os.walk(self.home):
            for name in files:
                path = Path(folder, name)
                # SQLite's map of its log: memory that happens to have a name.
                if not name.endswith("-shm"):
                    found[str(path.relative_to(self.home))] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def require_unchanged(self) -> None:
        after = self.bytes()
        changed = {
            path for path in after.keys() | self.before.keys() if after.get(path) != self.before.get(path)
        }
        assert not changed, f"changed: {sorted(changed)}"


def require_sentence(said: dict[str, Any]) -> str:
    assert re.fullmatch(r"[a-z][a-z0-9_]+", said["code"]), said
    assert said["message"].strip(), said
    assert len(said["message"]) <= 4000, len(said["message"])
    assert "Traceback" not in said["message"], said
    return str(said["code"])


def require_plain(ran: Ran) -> None:
    for text in (ran.out, ran.err):
        assert "Traceback" not in text, text
        found = _CONTROL.search(text)
        assert found is None, f"{found.group()!r} in {text[max(0, found.start() - 80) : found.end() + 80]!r}"


def peft_adapter(folder: Path, great: int = 0) -> Path:
    folder.mkdir()
    random = np.random.default_rng(0)
    tensors = {}
    for layer in range(2):
        for key, width in (("q_proj", 64), ("v_proj", 32)):
            stem = f"base_model.model.model.layers.{layer}.self_attn.{key}"
            rank = great if great and (layer, key) == (0, "v_proj") else 8
            for part, shape in (("lora_A", (rank, 64)), ("lora_B", (width, rank))):
                values = random.standard_normal(shape).astype(np.float32) / 50
                tensors[f"{stem}.{part}.weight"] = ("F32", values)
    settings = PEFT
    if great:
        # Many modules that cost nothing here, and a gigabyte when they are padded.
        for number in range(1_000):
            for part, shape in (("lora_A", (1, 1)), ("lora_B", (1, 1))):
                name = f"base_model.model.model.layers.{number}.mlp.up_proj.{part}.weight"
                tensors[name] = ("F32", np.ones(shape, np.float32))
        settings = settings | {"rank_pattern": {"layers.0.self_attn.v_proj": great, "up_proj": 1}}
    tiny_models.write_tensors(folder / "adapter_model.safetensors", tensors, {"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


@contextmanager
def hang_guard(seconds: float) -> Iterator[None]:
    timers = {
        signal.SIGPROF: (signal.ITIMER_PROF, seconds),
        signal.SIGALRM: (signal.ITIMER_REAL, _WAITS * seconds),
    }

    def ring(number: int, _: object) -> None:
        raise HangError(f"still running after {timers[signal.Signals(number)][1]:g} s")

    before = {number: signal.signal(number, ring) for number in timers}
    for timer, most in timers.values():
        signal.setitimer(timer, most)
    try:
        yield
    finally:
        for timer, _ in timers.values():
            signal.setitimer(timer, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def sampled(corpus: Mapping[str, Any], every: int) -> dict[str, Any]:
    step = 1 if os.environ.get("FUSERY_SOAK") else every
    return dict(islice(corpus.items(), 0, None, step))


Spoil = Callable[[Path], object]
