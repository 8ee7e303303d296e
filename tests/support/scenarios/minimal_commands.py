"""The commands that need no extra, run by an installation that has none: from two trained adapters to a backup taken back."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tiny_models

EXTRAS = ("mlx", "mlx_lm", "fastapi", "huggingface_hub", "obstore", "gguf", "transformers", "torch")
"""What an installation without extras cannot import."""


class MinimalUser:
    """Somebody with models and adapters on disk, who runs a program of which nothing but its requirements is installed."""

    def __init__(self, program: Sequence[str | Path], folder: Path) -> None:
        """Make the models: here, where mlx may be, and not where the commands run."""
        self.program, self.folder = program, folder
        for name, bits in (("dense", None), ("four", 4)):
            base = tiny_models.make_base(folder / name, layers=2, bits=bits)
            for seed, rank in ((1, 8), (2, 4)):
                config = (
                    tiny_models.make_adapter(folder / f"{name}-{seed}", base, seed=seed, rank=rank)
                    / "adapter_config.json"
                )
                # Where the model lay is in what is fused, and so would be this folder.
                config.write_text(
                    config.read_text(encoding="utf-8").replace(str(base), name), encoding="utf-8"
                )

    def environment(self, home: str) -> dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("FUSERY_", "PYTHON"))
        }
        return {**kept, "FUSERY_REGISTRY": str(self.folder / home), "FUSERY_USER": "tester"}

    def run(self, line: str, *, home: str = "home") -> Any:
        done = subprocess.run(
            [*self.program, *line.split(), "--json"],
            cwd=self.folder,
            env=self.environment(home),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr}"
        return json.loads(done.stdout)

    def engine(self) -> str:
        self.run("admin init", home="looked")
        checks = self.run("doctor", home="looked")["checks"]
        return str(next(each["status"] for each in checks if each["name"] == "engine"))

    def keep_promises(self) -> list[str]:
        self.run("admin init")
        for base in ("dense", "four"):
            self.run(f"base add {base} --name {base}")
            self.run(f"check {base}-1 --base {base}")
            for version in ("1", "2"):
                self.run(f"register {base}-{version} --base {base} --task {base} --version {version}")
        assert len(self.run("list")) == 4
        self.run("show dense@1")
        self.run("diff dense@1 dense@2")
        self.run("diff dense@1 dense@2")
        self.run("combine dense@1 dense@2 --task sum")
        fused = [self.run(f"fuse {base}@1") for base in ("dense", "four")]
        self.run("materialize dense@1 plain")
        self.run("materialize four@1 image --target docker")
        self.run("alias set dense@1 prod")
        self.run("lineage dense@1")
        self.run("identify plain")
        self.run("ui --save page.html")
        self.run("get dense@1 exported")
        self.run("admin backup kept")
        self.run("audit")
        self.run("admin gc")
        self.run("admin restore kept --own", home="other")
        assert self.run("list", home="other") == self.run("list")
        weights = [Path(each["path"]) / "model.safetensors" for each in fused]
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in weights]
