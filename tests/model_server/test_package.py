"""A bundle carries the model server: it imports nothing else of fusery, and works from the bundle's folder."""

from __future__ import annotations

import ast
import importlib.util
import sys

import pytest

from fusery.registry.bundles.rendering import server_files

FILES = {name: content for name, content in server_files().items() if name.startswith("serving/")}
MODULES = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in FILES}
ALLOWED = {"fastapi", "h11", "prometheus_client", "pydantic", "starlette", "uvicorn"}
ALLOWED |= {"jinja2", "llguidance", "mlx", "mlx_lm", "numpy", "transformers"}


@pytest.mark.parametrize("name", FILES)
def test_imports(name: str) -> None:
    package = name.rpartition("/")[0].replace("/", ".")
    for node in ast.walk(ast.parse(FILES[name])):
        modules: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.level:
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            assert source in MODULES, f"line {node.lineno} imports from outside"
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        elif isinstance(node, ast.Import):
            modules = [entry.name for entry in node.names]
        tops = {module.partition(".")[0] for module in modules}
        assert tops <= ALLOWED | sys.stdlib_module_names, f"line {node.lineno}"


def test_the_registry_part_is_not_carried() -> None:
    assert not any("local" in name for name in FILES)
    assert {"serving/model_server/run.py", "serving/registry/runtime/templates/program.py"} <= FILES.keys()
