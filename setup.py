"""What pyproject.toml cannot say: which half is compiled, and archives that are the same bytes whenever they are built."""

import gzip
import os
import sysconfig
import tarfile
from base64 import urlsafe_b64encode
from hashlib import sha256
from pathlib import Path
from zipfile import ZipFile

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.editable_wheel import editable_wheel
from setuptools.command.sdist import sdist

LIMITED = not sysconfig.get_config_var("Py_GIL_DISABLED")
"""One file serves every CPython from 3.11 on (decision 50); a free-threaded one has no such file, and compiles its own."""

# Compiled where there is a compiler; without, NumPy does the same (decision 11).  A sum must not be fused with a product,
# or the bits would depend on the processor; what a debugger wants would name the folder of the build.
KERNEL = Extension(
    "fusery.registry.engine._kernel",
    ["registry/engine/_kernel.c", "registry/engine/_shaping.c"],
    optional=True,
    extra_compile_args=["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-g0"],
    define_macros=[("Py_LIMITED_API", "0x030B0000")] if LIMITED else [],
    py_limited_api=LIMITED,
)

COMPILED = not os.environ.get("FUSERY_NO_EXTENSION")
"""Set, the variable asks for the wheel that runs anywhere, in NumPy alone."""


class Wheel(bdist_wheel):
    """A wheel whose modes do not depend on the umask of who built it."""

    def write_wheelfile(self, *args, **kwargs):
        """Do the last thing before all is packed."""
        super().write_wheelfile(*args, **kwargs)
        for path in filter(Path.is_file, Path(self.bdist_dir).rglob("*")):
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


class Editable(editable_wheel):
    """An editable installation in which type checkers find the package: they do not run its import hook.

    A path file names `.types`, whose `fusery-stubs` is a link to `fusery`.  No import finds a name with a hyphen.
    """

    def run(self):
        """Build the wheel, and add the path file."""
        super().run()
        [path] = Path(self.dist_dir).glob("*.whl")
        name, content = "__editable__.fusery_types.pth", f"{Path('.types').resolve()}\n".encode()
        digest = urlsafe_b64encode(sha256(content).digest()).decode().rstrip("=")
        with ZipFile(path) as wheel:
            files = {info: wheel.read(info) for info in wheel.infolist()}
        with ZipFile(path, "w") as wheel:
            wheel.writestr(name, content)
            for info, data in files.items():
                line = f"{name},sha256={digest},{len(content)}\n" if info.filename.endswith("/RECORD") else ""
                wheel.writestr(info, line.encode() + data)


class Source(sdist):
    """A source archive that says nothing of when and by whom it was made, if SOURCE_DATE_EPOCH is set."""

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, **kwargs):
        """Pack a folder."""
        moment = os.environ.get("SOURCE_DATE_EPOCH")
        if moment is None or format != "gztar":
            return super().make_archive(base_name, format, root_dir, base_dir, **kwargs)

        def alike(member):
            member.mtime, member.mode = int(moment), 0o755 if member.mode & 0o100 else 0o644
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            return member

        name = f"{base_name}.tar.gz"
        with (
            Path(name).open("wb") as raw,
            gzip.GzipFile("", "wb", 9, raw, int(moment)) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            archive.add(base_dir, filter=alike)
        return name


setup(
    ext_modules=[KERNEL] if COMPILED else [],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if COMPILED and LIMITED else {},
    cmdclass={"bdist_wheel": Wheel, "editable_wheel": Editable, "sdist": Source},
)
