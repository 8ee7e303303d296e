"""Give Python the changed source of one module (see `.ci/mutants.py`)."""

import importlib.abc
import importlib.machinery
import os
import sys
from pathlib import Path


class _ChangedSource(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname):  # neither reads nor writes compiled files
        return compile(
            Path(os.environ["MUTANTS_CHANGED_SOURCE"]).read_bytes(), self.path, "exec", dont_inherit=True
        )


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname != os.environ["MUTANTS_CHANGED_MODULE"].removesuffix(".__init__"):
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None and spec.origin:
                spec.loader = _ChangedSource(fullname, spec.origin)
                spec.cached = None
                return spec
        return None


if "MUTANTS_CHANGED_MODULE" in os.environ:
    sys.meta_path.insert(0, _Finder())
