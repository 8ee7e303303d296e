"""Claims: keys of their own, who vouches for them, and what people are told."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

from fusery.model_server.local.serve import ServeRequest, serve
from fusery.registry import Registry, tables
from fusery.registry.errors import BadInputError
from fusery.registry.fusion.fuse import FuseRequest
from fusery.registry.fusion.records import counting
from fusery.registry.fusion.views import claims, counts, foreign_key, foreign_record, recipe_key

KEEP = FuseRequest(precision="keep", accept_loss=True)
ORIGIN = "11111111-2222-3333-4444-555555555555"


@pytest.fixture
def claimed(stocked: Registry) -> Registry:
    stocked.fused.fuse("course_rec@1", KEEP, publish="full")
    with stocked.workspace.database.write() as session:
        assert counts(session, session.scalars(select(tables.FusedRow)).one())
        row = session.scalars(select(tables.FusedRow)).one()
        row.key, row.origin = foreign_key(ORIGIN, row.key), ORIGIN
    return stocked


def test_a_claim_is_found_by_the_key_that_it_claims_and_counts_for_nothing(claimed: Registry) -> None:
    with claimed.workspace.database.write() as session:
        row = session.scalars(select(tables.FusedRow)).one()
        key = recipe_key(row)
        assert [one.id for one in claims(session, key)] == [row.id]
        assert not counts(session, row)
        assert counting(session, key, accept=False) is None
        assert counting(session, key, accept=True) is row
        told = foreign_record(row)
        assert told is not None
        assert told.to_dict() == {"registry": ORIGIN, "key": key, "signed_by": [], "rebuilt": None}
        for file in row.manifest.files:
            file.blob = None
        session.flush()
        assert counting(session, key, accept=True) is None, "without files it is of no use"


def test_a_claim_is_confirmed_in_the_log_once_the_same_bytes_are_made(claimed: Registry) -> None:
    made = claimed.fused.fuse("course_rec@1", KEEP)
    [confirmed] = claimed.upkeep.log(action="fused.confirmed")
    assert (confirmed.detail["registry"], confirmed.detail["made"]) == (ORIGIN, made.digest)


def test_explain_says_what_a_claim_is(claimed: Registry) -> None:
    reasons = [model["reason"] for model in claimed.fused.explain("course_rec@1", KEEP)["models"]]
    assert "never made under this key" in reasons
    assert any("--accept-foreign" in reason for reason in reasons)


def test_nothing_foreign_is_served_where_nothing_is_fused(claimed: Registry, tmp_path: Path) -> None:
    pytest.importorskip("mlx_lm")
    request = ServeRequest(references=("course_rec@1",), request=FuseRequest(accept_foreign=True), port=0)
    with pytest.raises(BadInputError):
        serve(claimed, request, ready=lambda _: None)
