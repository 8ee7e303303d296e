"""Give Python the changed source of one module (see `.ci/mutants.py`).

It imports nothing that a program would not: tests interrupt a program at its own first import of a module.
"""

import os
import sys

if "MUTANTS_CHANGED_MODULE" in os.environ:
    from importlib.machinery import SourceFileLoader

    class _ChangedSource(SourceFileLoader):
        def get_code(self, fullname):  # neither reads nor writes compiled files
            with open(os.environ["MUTANTS_CHANGED_SOURCE"], "rb") as source:  # noqa: PTH123  pathlib imports much
                return compile(source.read(), self.path, "exec", dont_inherit=True)

    class _Finder:
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

    sys.meta_path.insert(0, _Finder())
