"""Container images for tests, built by buildah without a daemon, a registry or the network.

The base image is made of what is on this machine: the essential packages of its Debian, and the Python that runs the
tests under /usr/local, as the images called python:slim have it.  Nothing else of the machine gets into it: no compiler,
no package of ours.  Packages come from a folder of wheels that pip fetched before, so that the build itself is offline.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

BASE = "localhost/fusery-test/python:slim"

_WANTED = ("libc6", "libstdc++6", "libgcc-s1", "passwd")
_LEFT_OUT = {"site-packages", "test", "__pycache__", "idlelib", "turtledemo"}


def need_buildah() -> str:
    """Return the command, or skip: the tests are for machines that can build images."""
    found = shutil.which("buildah")
    if found is None:
        pytest.skip("buildah is not installed (apt-get install buildah)")
    if shutil.which("dpkg-query") is None:
        pytest.skip("the base image is made of Debian's packages, and this is no Debian")
    if os.geteuid() != 0:
        pytest.skip("buildah without a daemon needs root here")
    return found


def wheels(requirements: Path, folder: Path) -> Path:
    """Fetch the wheels of pinned requirements, for the Python of the base image."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--require-hashes", "--only-binary", ":all:", "-r", str(requirements), "-d", str(folder)]
    subprocess.run(command, check=True, timeout=540)
    (folder / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")
    return folder


class Builder:
    """buildah with storage of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._storage = [
            "--storage-driver",
            "overlay",
            "--root",
            str(root / "graph"),
            "--runroot",
            str(root / "run"),
        ]
        # Without these, buildah asks for limits that a container is not given.
        self._limits = []
        for name in ("NOFILE", "NPROC"):
            soft, hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))
            self._limits += ["--ulimit", f"{name.lower()}={soft}:{hard}"]

    def environment(self, wheels: Path) -> dict[str, str]:
        """Return variables that let any user of buildah build as `build` does, with packages from a folder of wheels."""
        limits = [limit for limit in self._limits if limit != "--ulimit"]
        (self.root / "containers.conf").write_text(
            f'[containers]\ndefault_ulimits = {json.dumps(limits)}\nnetns = "host"\n'
            f'volumes = ["{wheels}:/wheels:ro", "{wheels}/pip.conf:/etc/pip.conf:ro"]\n'
        )
        (self.root / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{self.root}/graph"\nrunroot = "{self.root}/run"\n'
        )
        return {
            "CONTAINERS_CONF": str(self.root / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.root / "storage.conf"),
            "BUILDAH_ISOLATION": "chroot",
        }

    def run(self, *arguments: str, check: bool = True, timeout: float = 540) -> str:
        """Run a command of buildah and return what it printed."""
        done = subprocess.run(
            self.command(*arguments), check=False, capture_output=True, text=True, timeout=timeout
        )
        if check and done.returncode != 0:
            raise AssertionError(f"buildah {' '.join(arguments)}: {done.stdout[-2000:]}{done.stderr[-3000:]}")
        return done.stdout.strip()

    def command(self, *arguments: str) -> list[str]:
        """Return the whole command line."""
        return ["buildah", *self._storage, *arguments]

    def build(self, folder: Path, tag: str, *options: str) -> None:
        """Build a folder's Dockerfile, offline."""
        isolation = ["--isolation", "chroot", "--network", "host", *self._limits]
        self.run("bud", *isolation, "--tag", tag, *options, str(folder))

    @contextmanager
    def container(self, image: str) -> Iterator[str]:
        """Yield a container of an image."""
        name = self.run("from", *self._limits, image)
        try:
            yield name
        finally:
            self.run("rm", name)

    def inside(self, container: str, arguments: Sequence[str], *, user: str, port: int) -> list[str]:
        """Return the command line that runs something in a container, on the host's network."""
        options = ["--isolation", "chroot", "--network", "host", "--user", user, "--env", f"PORT={port}"]
        return self.command("run", *options, "--env", "HOST=127.0.0.1", container, "--", *arguments)

    @contextmanager
    def read_only(self, container: str, arguments: Sequence[str], *, port: int) -> Iterator[list[str]]:
        """Yield the command line that runs something in a container as `--read-only --tmpfs /tmp` does, as the image's user.

        buildah's own `run` has no such option, so the container's files are mounted here, read-only, and entered, with
        the devices that every container is given.
        """
        root = self.run("mount", container)
        config = json.loads(self.run("inspect", container))["Docker"]["config"]
        variables = [*config["Env"], f"PORT={port}", "HOST=127.0.0.1"]
        script = (
            'set -e; mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"; mount -t tmpfs tmpfs "$1/tmp"; '
            'mount -t proc proc "$1/proc"; mount -t tmpfs tmpfs "$1/dev"; '
            'for name in null zero full random urandom; do touch "$1/dev/$name"; mount --bind "/dev/$name" "$1/dev/$name"; done; '
            "root=$1; user=$2; shift 2; "
            'exec chroot --userspec="$user" "$root" /usr/bin/env -i "$@"'
        )
        command = ["unshare", "--mount", "sh", "-c", script, "sh", root, config["User"]]
        try:
            yield [*command, *variables, *arguments]
        finally:
            self.run("umount", container)

    def make_base(self) -> str:
        """Make the base image once and return its name."""
        folder = self.root / "base"
        rootfs = folder / "rootfs"
        rootfs.mkdir(parents=True)
        _copy_packages(rootfs)
        _copy_python(rootfs / "usr" / "local")
        _copy_libraries(rootfs)
        (rootfs / "etc" / "ld.so.conf").write_text("/usr/local/lib\n")
        subprocess.run(["ldconfig", "-r", str(rootfs)], check=True)
        (folder / "Dockerfile").write_text("FROM scratch\nCOPY rootfs/ /\n")
        self.build(folder, BASE)
        shutil.rmtree(rootfs)
        return BASE


def _copy_packages(rootfs: Path) -> None:
    """Copy the files of the essential packages."""
    fields = "${Package}\t${Essential}\t${Priority}\t${db:Status-Status}\n"
    shown = subprocess.run(
        ["dpkg-query", "--show", f"--showformat={fields}"], check=True, capture_output=True, text=True
    ).stdout
    kept = {
        package
        for package, essential, priority, status in (line.split("\t") for line in shown.splitlines())
        if status == "installed" and (essential == "yes" or priority == "required" or package in _WANTED)
    }
    listed = subprocess.run(
        ["dpkg-query", "--listfiles", *sorted(kept)], check=True, capture_output=True, text=True
    ).stdout
    paths = sorted({line for line in listed.splitlines() if line.startswith("/") and line != "/."})
    skipped = ("/usr/share/doc", "/usr/share/man", "/usr/share/locale", "/usr/share/info")
    listing = "\0".join(path.lstrip("/") for path in paths if not path.startswith(skipped)) + "\0"
    for link in ("bin", "lib", "lib64", "sbin"):
        if (Path("/") / link).is_symlink():
            (rootfs / link).symlink_to(f"usr/{link}")
    (rootfs / "usr").mkdir(exist_ok=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        (rootfs / "usr" / name).mkdir(exist_ok=True)
    packed = subprocess.run(
        ["tar", "-C", "/", "--create", "--no-recursion", "--ignore-failed-read", "--null", "--files-from=-"],
        input=listing.encode(),
        check=False,
        capture_output=True,
    ).stdout
    subprocess.run(
        ["tar", "--extract", "--keep-directory-symlink", "-C", str(rootfs)], input=packed, check=True
    )
    for name in ("tmp", "proc", "dev"):
        (rootfs / name).mkdir(exist_ok=True)
    (rootfs / "tmp").chmod(0o1777)
    (rootfs / "etc" / "passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/usr/sbin/nologin\n"
    )
    (rootfs / "etc" / "group").write_text("root:x:0:\nnogroup:x:65534:\n")


def _copy_python(prefix: Path) -> None:
    """Copy the Python that runs this, without its packages."""
    source = Path(sys.base_prefix)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (prefix / "bin").mkdir(parents=True, exist_ok=True)
    shutil.copytree(
        source / "lib" / version,
        prefix / "lib" / version,
        symlinks=True,
        ignore=lambda folder, names: _LEFT_OUT & set(names),
    )
    for library in (source / "lib").glob("libpython*.so*"):
        shutil.copy2(library, prefix / "lib" / library.name, follow_symlinks=False)
    shutil.copy2(Path(sys.base_prefix) / "bin" / version, prefix / "bin" / version)
    (prefix / "bin" / "python3").symlink_to(version)
    (prefix / "lib" / version / "site-packages").mkdir()


def _copy_libraries(rootfs: Path) -> None:
    """Copy the libraries that the commands and Python's own modules are linked with."""
    linked = [*rootfs.glob("usr/local/lib/python*/lib-dynload/*.so"), *rootfs.glob("usr/*bin/*")]
    # A script is none of its business, and says so with its exit code.
    shown = subprocess.run(["ldd", *map(str, linked)], check=False, capture_output=True, text=True).stdout
    for found in sorted(set(re.findall(r"=> (/\S+)", shown))):
        target = rootfs / found.lstrip("/")
        if not target.exists() and not found.startswith(sys.base_prefix):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(found, target)
