"""Templates of bundles, which come with the package; text from outside is never compiled as a template."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, Any

from .quoting import markdown_text, yaml_string

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, /, **values: Any) -> bytes:
    """Render a template of this package; a missing value is an error."""
    return _environment().get_template(template).render(values).encode()


def resource(name: str) -> bytes:
    """Return a file of `templates/` as it is."""
    return (_package() / "templates" / name).read_bytes()


def server_files() -> dict[str, bytes]:
    """Return the server, how it is started and what it needs, pinned: path and content, sorted."""
    return {
        "requirements.txt": resource("requirements.txt"),
        "server.py": resource("server.py.txt"),
        **package_files("server", under="serving/"),
    }


def package_files(name: str, *, under: str = "") -> dict[str, bytes]:
    """Return the modules of a package of the registry and of those in it: path and content, sorted."""
    return _modules(files(__name__.rpartition(".bundles.")[0]).joinpath(*name.split("/")), under)


def _modules(folder: Traversable, under: str = "") -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            found |= _modules(entry, f"{under}{entry.name}/")
        elif entry.name.endswith(".py"):
            found[under + entry.name] = entry.read_bytes()
    return found


def _package() -> Traversable:
    return files(__name__.rpartition(".")[0])


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(  # Markdown and Dockerfiles: HTML escapes would not help.
        loader=FunctionLoader(lambda name: resource(name).decode()),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"yaml": yaml_string, "text": markdown_text}
    return environment
