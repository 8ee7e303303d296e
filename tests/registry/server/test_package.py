"""The package goes into bundles as it is: it needs nothing of fusery."""

from __future__ import annotations

import ast
import sys

import pytest

from fusery.registry.bundles.rendering import package_files

FILES = package_files("server")
ALLOWED = {"fastapi", "h11", "prometheus_client", "pydantic", "starlette", "uvicorn"}
ALLOWED |= {"jinja2", "llguidance", "mlx", "mlx_lm", "numpy", "transformers"}


@pytest.mark.parametrize("name", FILES)
def test_imports(name: str) -> None:
    for node in ast.walk(ast.parse(FILES[name])):
        modules: list[str] = []
        if isinstance(node, ast.ImportFrom):
            assert node.level <= 1 + name.count("/"), f"line {node.lineno} imports from outside"
            modules = [node.module or ""] if node.level == 0 else []
        elif isinstance(node, ast.Import):
            modules = [entry.name for entry in node.names]
        tops = {module.partition(".")[0] for module in modules}
        assert tops <= ALLOWED | sys.stdlib_module_names, f"line {node.lineno}"
