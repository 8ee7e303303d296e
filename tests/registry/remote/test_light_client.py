"""A client of a server imports neither SQL nor arithmetic: it has to start fast, in CI and in trainers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from page_server import pages_of
from tiny_models import make_adapter

from fusery.registry import Registry
from fusery.web.auth import Proxies, TokenAuth

pytestmark = pytest.mark.timing

CODE = """
import sys
from pathlib import Path

HEAVY = {"sqlalchemy", "pydantic", "numpy", "alembic", "mlx", "rich", "fsspec", "jinja2", "click", "zstandard", "safetensors"}


class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HEAVY:
            raise ImportError(f"a client imports {name}")


sys.meta_path.insert(0, Absent())
from fusery.registry import Registry
from fusery.registry.api.operation import operations_of
from fusery.registry.api.resource import Resource
from fusery.registry.errors import UnknownReferenceError

with Registry.open(sys.argv[1]) as registry:
    assert "httpx2" not in sys.modules
    done = registry.adapters.register(Path(sys.argv[2]), base="tiny", task="rerank")
    assert registry.adapters.show(done).name == done.name
    assert len(registry.adapters.list()) == 3
    assert registry.aliases.promote(done, "prod", reason="launch").verdict == "passed"
    assert registry.aliases.show("rerank#prod").adapter == done.name
    registry.adapters.amend(done, note="fine", reason="asked")
    registry.aliases.approve("course_rec@1", "prod")
    assert registry.provenance.lineage(done).nodes
    assert registry.upkeep.log()
    for resource in vars(registry).values():
        if isinstance(resource, Resource):
            for operation in operations_of(type(resource)):
                operation.returns  # which the client decodes answers to
    assert registry.evaluations.record(done, {"accuracy": 0.5}).recorded
    assert registry.evaluations.list(done) and registry.evaluations.last_bench(done) is None
    assert registry.provenance.search("rerank").tasks == ("rerank",)
    assert registry.provenance.attest(done).document
    assert registry.trust.find(done.name).digest == done.digest
    assert registry.trust.signatures(done).signatures == ()
    assert registry.trust.list_keys() == []
    assert registry.trust.anchor(None, bytes)[0].seq
    assert registry.upkeep.audit((done,)).ok and registry.upkeep.audit_chain().ok
    assert registry.upkeep.schema().status == "current"
    assert registry.upkeep.gc(dry_run=True)
    registry.adapters.yank(done, reason="test")
    try:
        registry.adapters.show("nothing@1")
    except UnknownReferenceError:
        pass
"""


def test_client_imports_neither_sql_nor_arithmetic(
    stocked: Registry, tiny_base: Path, tmp_path: Path
) -> None:
    make_adapter(tmp_path / "adapter", tiny_base, seed=7)
    token = stocked.tokens.create("ci", "admin").secret
    with pages_of(stocked, TokenAuth(stocked, Proxies())) as url:
        done = subprocess.run(
            [sys.executable, "-P", "-c", CODE, url, tmp_path / "adapter"],
            env={**os.environ, "FUSERY_TOKEN": token},
            check=False,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
