"""Building the image of a bundle with the container engine of this machine."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from fusery.storage.shell import typed

from ..errors import BadInputError, BuildFailedError
from .built import BuiltImage
from .image_files import image_name

# docker's own format has the health check, which OCI's lacks; docker writes nothing else.
_BUILD = {
    "docker": ("docker", "build"),
    "podman": ("podman", "build", "--format", "docker"),
    "buildah": ("buildah", "build", "--format", "docker"),
}
_SECONDS_TO_ANSWER = 20


def find_engine() -> str:
    """Return the first engine that is installed and answers.

    Raises:
        BadInputError: there is none.
    """
    silent = []
    for engine in _BUILD:
        if shutil.which(engine) is None:
            continue
        if _answers(engine):
            return engine
        silent.append(engine)
    why = (
        f"{' and '.join(silent)} does not answer"
        if silent
        else "none of docker, podman and buildah is installed"
    )
    raise BadInputError(
        f"no image can be built on this machine: {why}",
        hint="leave --build out, and build where one is: docker build -t NAME DEST",
    )


def _answers(engine: str) -> bool:
    """Tell whether an engine works for this user; docker's client may be there without its daemon."""
    try:
        done = subprocess.run(
            [engine, "info"],
            capture_output=True,
            check=False,
            timeout=_SECONDS_TO_ANSWER,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def build_image(
    engine: str,
    folder: Path,
    name: str,
    *,
    target: str = "docker",
    nvidia: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> BuiltImage:
    """Build a bundle's image.

    Args:
        engine: as `find_engine` returned it.
        folder: the bundle.
        name: what the bundle is called; the image is `fused:NAME`, or `fused:NAME-nvidia`, and `adapters:NAME` of adapters.
        target: the bundle's.
        nvidia: with CUDA's libraries in place of the CPU's.
        say: called with each line that the engine prints.

    Raises:
        BuildFailedError: the engine failed.
    """
    image = image_name(target, name, nvidia=nvidia)
    chosen = ["--build-arg", "REQUIREMENTS=requirements-nvidia.txt"] if nvidia else []
    command = [*_BUILD[engine], "--tag", image, *chosen, str(folder)]
    last = ""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip():
                last = line.strip()
                say(last)
    if process.returncode != 0:
        raise BuildFailedError(
            f"{engine} did not build the image of {name}: {last[:300] or 'it gave no reason'}",
            hint=f"the bundle itself is complete: {' '.join(_BUILD[engine])} {typed(folder)}",
        )
    return BuiltImage(engine, image)
