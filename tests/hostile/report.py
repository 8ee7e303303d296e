"""How long each hostile input takes, and what is said of it: `python -m hostile.report`.

The numbers are of processor time: what else the machine does is not in them.
"""
# ruff: noqa: T201 -- a command of its own

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from hostile import bases, configurations, folders, headers
from hostile.arena import Arena, Attempt, Spoil, replacing


def adapters() -> Iterator[tuple[str, Spoil]]:
    """Yield every hostile adapter: its name and what is done to a good one."""
    for corpus in (headers.FORBIDDEN, headers.BEYOND, headers.HUGE):
        for name, make in corpus.items():
            yield f"header: {name}", replacing(folders.WEIGHTS, make)
    for corpus in (configurations.NOT_JSON, configurations.MLX_CONFIGS):
        for name, make in corpus.items():
            yield f"configuration: {name}", replacing(folders.CONFIG, make)
    for name, make in configurations.METADATA.items():
        yield f"metadata: {name}", replacing("adapter_metadata.json", make)
    for name, spoil in {**folders.FOLDERS, **folders.CROWDS}.items():
        yield f"folder: {name}", spoil


def models() -> Iterator[tuple[str, Spoil]]:
    """Yield every hostile base model."""
    for corpus in (headers.FORBIDDEN, headers.HUGE):
        for name, make in corpus.items():
            yield f"base, header: {name}", replacing("model.safetensors", make)
    for name, spoil in bases.REFUSED.items():
        yield f"base: {name}", spoil


def attempts(arena: Arena, root: Path) -> Iterator[tuple[str, Attempt]]:
    """Try them all."""
    for name, spoil in adapters():
        yield name, _tried(arena.adapter, spoil, root / "adapters", arena.offer)
    for name, spoil in models():
        yield name, _tried(arena.base, spoil, root / "model", arena.offer_base)
    for name, make in bases.GGUF.items():
        path = root / "model.gguf"
        path.write_bytes(make())
        yield f"GGUF: {name}", arena.offer_base(path)


def _tried(good: Path, spoil: Spoil, folder: Path, offer: Callable[[Path], Attempt]) -> Attempt:
    shutil.copytree(good, folder)
    spoil(folder)
    attempt = offer(folder)
    shutil.rmtree(folder)
    return attempt


def main() -> None:
    """Print the slowest, and a summary."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        arena = Arena(root / "home", root)
        done = sorted(attempts(arena, root), key=lambda item: -item[1].seconds)
    print("| input | said | slowest command, s of CPU |\n| --- | --- | --- |")
    for title, attempt in done[:20]:
        print(f"| {title} | {', '.join(sorted(set(attempt.codes))[:3])} | {attempt.seconds:.2f} |")
    over = sum(attempt.seconds >= 1 for _, attempt in done)
    print(
        f"\n{len(done)} inputs, {over} of them over a second; half under {done[len(done) // 2][1].seconds:.3f} s"
    )


if __name__ == "__main__":
    main()
