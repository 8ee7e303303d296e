"""Make the golden artifacts of a release: what it wrote, for later versions to read.

    PYTHONPATH=tests:tests/support/models .venv/bin/python -P -m golden.make    # on the tag of the release

Writes `tests/golden/VERSION/` of the version that is checked out, by its own commands: a home with its database and store,
a backup, a bundle of each target that needs no other interpreter, exports, signatures and an anchor, and
`surface.json`, the names that others build on; all in `artifacts.tar.xz`, with its digest beside it.  A folder that is there
already is left as it is: what was released is never made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tiny_models
from golden import surface

from fusery.cli.main import run

HERE = Path(__file__).resolve().parent
REF = "course_rec@2"
SHAPE: dict[str, Any] = {"layers": 1, "hidden": 32, "intermediate": 64, "vocab": 260, "tied": True}

FUSES = {
    "keep": f"{REF} --as keep --accept-loss",
    "dither": f"{REF} --as dither -o seed=7 --accept-loss",
    "mixed": f"{REF} --as mixed --accept-loss",
    "dequantize": f"{REF} --as 16bit",
    "quantize": f"{REF} -o quantize=8 -o group_size=32 --accept-loss",
    "two": f"{REF} --as 16bit --with course_rec@1:0.5",
    "dora once": "dora@1 --as 16bit -o rounding=once",
    "dora as mlx-lm": "dora@1 --as 16bit -o rounding=mlx-lm",
}
"""What is fused before the base is calibrated: each of these is a recipe of its own."""

SHAPED = {
    "shaped": "course_rec@1 --as dither --accept-loss",
    "shaped mixed": "course_rec@1 --as mixed --accept-loss",
}
"""What is fused with the calibration."""

BUNDLES = {
    "model": f"{REF} --target model",
    "archive.tar.zst": f"{REF} --target archive",
    "docker": f"{REF} --target docker",
    "adapters": f"course_rec@1 {REF} --target adapters",
    "vllm": f"course_rec@1 {REF} --target vllm -o base_name=org/tiny",
    "k8s": f"course_rec@1 {REF} --target k8s -o location=oci://team/adapters:v1 -o base_name=org/tiny",
    "ollama": f"{REF} --target ollama",
    "llamacpp": f"{REF} --target llamacpp",
    "gguf": f"{REF} --target gguf",
    "oci": f"{REF} --target oci",
    "hub": f"{REF} --target hub",
}

DOCUMENTS = {
    "base list": "base list", "list": "list", "show": f"show {REF}", "history": "log course_rec",
    "alias list": "alias list", "rules list": "alias rules list", "eval list": f"eval list {REF}",
    "deploy list": "deploy list --all", "lineage": f"lineage {REF}", "signature list": f"sign --list {REF}",
    "trust list": "admin trust list", "token list": "admin token list", "webhook list": "admin webhook list",
    "events": "log --limit 1000", "attest": f"lineage --format slsa {REF}",
}  # fmt: skip
"""Commands that ask the registry when all is made; each later version has to answer the same, and may say more."""


def main() -> None:
    target = HERE / version("fusery")
    if target.exists():
        sys.exit(f"{target} is there already: what was released is never made anew")
    # Paths are on record, so that they are to say nothing of the machine.
    folder = Path(tempfile.gettempdir()) / "fusery-golden"
    folder.mkdir()
    before = Path.cwd()
    os.chdir(folder)
    try:
        fused = prepare(folder)
        known = {
            "version": version("fusery"),
            "made in": str(folder),
            "answers": {name: answer(words) for name, words in DOCUMENTS.items()},
            "fused": fused,
        }
        Path("expected.json").write_text(json.dumps(known, indent=1, sort_keys=True))
        Path("surface.json").write_text(json.dumps(surface.surface(), indent=1, sort_keys=True))
        # The cache is no part of what lasts, and what was registered is in the store.
        for name in ("home/cache", "tiny", "adapter1", "adapter2", "adapter3"):
            shutil.rmtree(folder / name)
        target.mkdir()
        with tarfile.open(target / "artifacts.tar.xz", "w:xz") as archive:
            for path in sorted(folder.rglob("*")):
                archive.add(path, path.relative_to(folder), recursive=False, filter=_plain)
    finally:
        os.chdir(before)
        shutil.rmtree(folder)
    digest = hashlib.sha256((target / "artifacts.tar.xz").read_bytes()).hexdigest()
    (target / "SHA256SUMS").write_text(f"{digest}  artifacts.tar.xz\n")


def prepare(folder: Path) -> dict[str, dict[str, str]]:
    os.environ.update(FUSERY_REGISTRY=str(folder / "home"), FUSERY_USER="golden")
    tiny_models.make_base(folder / "tiny", bits=4, group_size=32, **SHAPE)
    for number, kind in enumerate(("lora", "lora", "dora"), 1):
        options: Any = {"seed": number, "rank": 4, "num_layers": 1, "fine_tune_type": kind}
        tiny_models.make_adapter(folder / f"adapter{number}", folder / "tiny", **options)
    Path("prompts.txt").write_text(
        "What is a golden artifact?\nWhat a release wrote, for later ones to read.\n"
    )
    Path("results.json").write_text('{"courses.acc": 0.75}')
    course = "--base tiny --task course_rec --dataset courses --examples 120"
    answer("admin", "init")
    answer("base add tiny --name tiny")
    answer(f"register adapter1 {course} --date 20260115 --val-loss 0.61 --note Ünïcode")
    answer(
        f"register adapter2 {course} --date 20260201 --val-loss 0.42 --parent course_rec@1 --tag team=search"
    )
    answer("register adapter3 --base tiny --task dora --date 20260202")
    answer(f"edit {REF} --examples 121 --reason typo")
    answer(f"combine {REF} --rank 2 --task small")
    answer(f"eval record {REF} results.json --dataset courses --split test")
    fused = {name: answer(f"fuse {words} --publish recipe") for name, words in FUSES.items()}
    answer("base calibrate tiny --prompts prompts.txt")
    fused |= {name: answer(f"fuse {words} --publish recipe") for name, words in SHAPED.items()}
    answer("fuse course_rec@1 --as keep --accept-loss --publish full")
    answer("admin trust keygen anna")
    answer("admin trust add anna anna.pub --for *#prod")
    answer(f"sign {REF} --key anna.pem")
    Path("bundles").mkdir()
    for name, words in BUNDLES.items():
        answer(f"materialize {words} bundles/{name}")
    for form in ("mlx", "peft"):
        Path(f"exports/{form}").mkdir(parents=True)
        answer(f"get {REF} exports/{form} --format {form}")
    for signed in ("bundles/model", "bundles/archive.tar.zst", next(Path("exports/mlx").iterdir())):
        answer(f"sign {signed} --key anna.pem")
    answer("alias rules set canary --admission no_errors")
    answer("alias set course_rec@1 prod --reason first")
    answer(f"alias set {REF} prod --reason better")
    os.environ["FUSERY_USER"] = "ben"  # an author's own approval counts for nothing
    answer(f"alias approve {REF} canary")
    os.environ["FUSERY_USER"] = "golden"
    answer(f"promote {REF} canary")
    answer(f"deploy record {REF} eu/ranker")
    answer("deploy record course_rec@1 lab")
    answer("deploy end lab")
    answer("yank small@1 --reason worse")
    answer("admin token create ci --role publisher")
    answer("admin webhook add https://hooks.example.org/fusery --on alias.moved --name ci")
    answer(f"lineage --format slsa {REF} -o attestation.json --key anna.pem")
    answer("sign --log -o anchor.json --key anna.pem")
    answer("admin backup backup")
    Path("anna.pem").unlink()  # of no use, and those who look for lost keys would find it
    return {name: {key: each[key] for key in ("key", "digest")} for name, each in fused.items()}


def answer(words: str) -> Any:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = run([*words.split(), "--json"])
    if code:
        sys.exit(f"fusery {words}: exit code {code}\n{out.getvalue()}")
    return json.loads(out.getvalue())


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    main()
