"""Fusing with a second opinion: what the model answers, where its weights alone are not sure."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shift_cipher_adapters
from broken_adapters import edit_config
from page_server import pages_of
from sqlalchemy import select, update

from fusery.registry import RecordRun, Registry, Reporter, tables
from fusery.registry.database import events
from fusery.registry.errors import DatabaseReadOnlyError, FidelityError
from fusery.registry.fusion.request import FuseRequest
from fusery.registry.fusion.views import foreign_key
from fusery.registry.records.fused import Fused
from fusery.registry.records.trust import Role
from fusery.research import models, second_opinion
from fusery.research.models import ModelScores, TokenScores
from fusery.research.second_opinion import judge_answers
from fusery.storage.errors import StoreUnavailableError
from fusery.web.auth import Proxies, TokenAuth

PROMPTS = second_opinion.LEAST_PROMPTS
LETTERS = "abcdefghijklmnopqrstuvwxyz"
OF_TASK = [f"{LETTERS[start:]}{LETTERS[:start]}" for start in range(6)]
"""What the adapter of shift 1 says."""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a busy machine take its time."""
    monkeypatch.setattr("fusery.registry.fusion.fuse.ASKED_FOR", 600.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("caesar")
    base = shift_cipher_adapters.make_base(folder / "base", layers=1, bits=4)
    return base, shift_cipher_adapters.make_adapter(folder / "adapter", base, 1)


def registered(registry: Registry, made: tuple[Path, Path], folder: Path, texts: list[str] | None) -> None:
    base, adapter = made
    run = adapter if texts is None else with_data(adapter, folder, texts)
    registry.bases.add(base, name="letters")
    registry.adapters.register(run, base="letters", task="caesar", date="20260101")


def with_data(adapter: Path, folder: Path, texts: list[str]) -> Path:
    """Return a copy of an adapter, as a run that recorded its data."""
    run, data = shutil.copytree(adapter, folder / "run"), folder / "data"
    data.mkdir()
    for name in ("train", "valid"):
        (data / f"{name}.jsonl").write_text("".join(f"{json.dumps({'text': text})}\n" for text in texts))
    with RecordRun(run, arguments={"data": str(data)}):
        pass
    return run


def asked(registry: Registry, request: FuseRequest | None = None) -> tuple[Fused, list[str]]:
    said: list[str] = []
    return registry.fused.fuse("caesar@1", request, reporter=Reporter(said.append)), said


def logged(registry: Registry) -> list[tuple[str, int]]:
    """Return the verdict of each time that a model was asked, and how many prompts, oldest first."""
    entries: list[Any] = registry.upkeep.log(action="fused.answered")
    return [(entry.detail["answers"]["verdict"], entry.detail["answers"]["prompts"]) for entry in entries]


def test_the_size_of_the_base_is_taken_where_the_model_answers_as_it_should(
    registry: Registry, made: tuple[Path, Path], tmp_path: Path
) -> None:
    registered(registry, made, tmp_path, OF_TASK)
    assert registry.fused.fuse("caesar@1", FuseRequest(probe=0)).precision == "mixed"
    assert logged(registry) == []
    taken, said = asked(registry, FuseRequest(probe=600))
    assert (taken.precision, taken.fidelity.verdict) == ("dither", "PASS")
    answers = taken.fidelity.answers
    assert answers is not None and (answers.verdict, answers.prompts) == ("PASS", 6)
    assert abs(answers.lost) < 0.02
    assert answers.gained > 0.1
    assert [line for line in said if line.startswith("dither, asked 6 prompts: PASS")], said
    assert not [line for line in said if line.startswith("keep, asked")], "the weights are sure of keep"
    # Every other command takes the same model, and none asks again.
    again, said = asked(registry)
    assert (again.key, again.source) == (taken.key, "cache")
    bundle = registry.bundles.materialize("caesar@1", tmp_path / "bundle")
    assert bundle.to_dict()["digest"]
    record = json.loads((tmp_path / "bundle" / "fusery.json").read_text())["provenance"]
    assert record["fidelity"]["verdict"] == "PASS"
    assert registry.fused.fidelity("caesar@1").fidelity.answers == answers
    assert registry.fused.formats("caesar@1").chosen == "dither"
    assert logged(registry) == [("PASS", 6)]
    registry.aliases.set_rules("prod", {"fidelity": "PASS"})
    assert registry.aliases.promote("caesar@1", "prod").verdict == "passed"
    shutil.rmtree(registry.workspace.settings.cache)
    for request in (None, FuseRequest(probe=0)):
        again, said = asked(registry, request)
        assert (again.key, again.fidelity.verdict) == (taken.key, "PASS"), said
    assert logged(registry) == [("PASS", 6)]


def test_what_does_not_answer_as_it_should_is_passed_over(
    registry: Registry, made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_opinion, "AGREE", 1.5)
    registered(registry, made, tmp_path, OF_TASK)
    taken, said = asked(registry)
    assert taken.precision == "mixed"
    assert [line for line in said if line.startswith("dither, asked 6 prompts: DEGRADED")]
    assert logged(registry) == [("DEGRADED", 6)] * 2, "of `mixed` too"
    assert said.count("the base answers 6 prompts") == 1, "base and adapter answer once for all candidates"
    assert [model.precision for model in registry.fused.list()] == ["mixed"], (
        "what was only asked is not kept"
    )
    wanted, said = asked(registry, FuseRequest("dither"))
    assert wanted.fidelity.verdict == "DEGRADED"
    explained = registry.fused.explain("caesar@1")["models"]
    statuses = {model["key"]: model["status"] for model in explained}
    assert (statuses[wanted.key], statuses[taken.key]) == ("refused", "hit"), "`auto` passes it over"
    assert [line for line in said if line.startswith("DEGRADED: ")]
    registry.aliases.set_rules("prod", {"fidelity": "DEGRADED"})
    assert registry.aliases.promote("caesar@1", "prod").verdict == "passed"


def test_a_model_that_answers_like_the_base_is_lost(
    registry: Registry, made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_opinion, "HALF", 2.0)
    registered(registry, made, tmp_path, OF_TASK)
    with pytest.raises(FidelityError) as caught:
        asked(registry, FuseRequest("dither"))
    assert caught.value.hint
    assert registry.fused.list() == []
    assert asked(registry, FuseRequest("dither", accept_loss=True))[0].fidelity.verdict == "LOST"


@pytest.mark.parametrize(
    ("agree", "half", "answered", "verdict"),
    [(1.5, 0.5, "DEGRADED", "DEGRADED"), (1.5, 2.0, "LOST", "LOST"), (0.9, 0.5, "PASS", "UNSURE")],
)
def test_answers_count_if_the_weights_of_a_named_format_give_lost(
    registry: Registry,
    made: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    agree: float,
    half: float,
    answered: str,
    verdict: str,
) -> None:
    monkeypatch.setattr("fusery.registry.engine.verdict.LOST_BELOW", 2.0)
    monkeypatch.setattr(second_opinion, "AGREE", agree)
    monkeypatch.setattr(second_opinion, "HALF", half)
    registered(registry, made, tmp_path, OF_TASK)
    for _ in range(2):
        with pytest.raises(FidelityError) as caught:
            asked(registry, FuseRequest("keep"))
        assert all(one in caught.value.message for one in ("LOST", verdict)), (
            "why it is refused, and the verdict"
        )
    assert registry.fused.list() == []
    assert asked(registry, FuseRequest("keep", accept_loss=True))[0].fidelity.verdict == verdict
    (line,) = registry.fused.list()
    assert (line.fidelity.verdict, line.rebuild.split()[-1]) == (verdict, "--accept-loss")
    with pytest.raises(FidelityError):
        asked(registry, FuseRequest("keep"))
    assert logged(registry) == [(answered, 6)], "asked once"


def test_logged_answers_refuse_a_model_before_it_is_computed(
    registry: Registry, made: tuple[Path, Path], tmp_path: Path
) -> None:
    registered(registry, made, tmp_path, None)
    (row,) = [row for row in registry.fused.formats("caesar@1").formats if row.precision == "dither"]
    figures = {"prompts": 6, "gained": 1.0, "lost": 0.9, "agreement": 0.5, "general_kl": 0.1}
    detail = {"adapter": "caesar_v1_20260101", "answers": {"verdict": "LOST", **figures}}
    with registry.workspace.database.write() as session:
        events.record(session, "fused.answered", "fused", str(row.key), detail)
    with pytest.raises(FidelityError):
        asked(registry, FuseRequest("dither"))
    made_anyway = asked(registry, FuseRequest("dither", accept_loss=True))[0]
    assert made_anyway.fidelity.verdict == "LOST"
    (line,) = registry.fused.list()
    assert line.rebuild.endswith("--accept-loss")


def test_a_failure_or_an_edited_entry_of_the_log_is_no_answer(
    registry: Registry, made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(registry, made, tmp_path, OF_TASK)
    for failure in (StoreUnavailableError("gone"), OSError(28, "no space left on device")):

        def failing(*_: Any, failure: Exception = failure, **__: Any) -> None:
            raise failure

        with monkeypatch.context() as patch:
            patch.setattr(models.FirstAnswers, "compare", failing)
            assert asked(registry, FuseRequest("dither"))[0].fidelity.verdict == "UNSURE"
        assert logged(registry) == []
    assert asked(registry, FuseRequest("dither"))[0].fidelity.verdict == "PASS"
    for edited in ("[]", "not JSON", '{"answers": [1]}', '{"answers": {"verdict": "PASS"}}'):
        with registry.workspace.database.write() as session:
            answered = tables.EventRow.action == "fused.answered"
            session.execute(update(tables.EventRow).where(answered).values(detail=edited))
        assert {line.fidelity.verdict for line in registry.fused.list()} == {"UNSURE"}, edited
    with monkeypatch.context() as patch:
        patch.setattr(second_opinion, "find_spec", lambda _: None)
        assert second_opinion.held_out_data(registry.workspace, 1) is None


def test_answers_to_the_prompts_of_another_record_are_no_evidence(
    registry: Registry, made: tuple[Path, Path], tmp_path: Path
) -> None:
    registered(registry, made, tmp_path, None)
    assert asked(registry, FuseRequest("dither"))[0].fidelity.verdict == "UNSURE"
    registry.aliases.set_rules("prod", {"fidelity": "PASS"})
    registry.adapters.register(with_data(made[1], tmp_path, OF_TASK), base="letters", task="twin")
    assert registry.fused.fuse("twin@1", FuseRequest("dither")).fidelity.verdict == "PASS"
    assert registry.aliases.promote("caesar@1", "prod").exit_code == 3
    assert registry.aliases.promote("twin@1", "prod").exit_code == 0


def test_a_sum_is_asked_the_prompts_of_each_adapter(
    registry: Registry, made: tuple[Path, Path], tmp_path: Path
) -> None:
    registered(registry, made, tmp_path, OF_TASK)
    (tmp_path / "more").mkdir()
    twin = with_data(made[1], tmp_path / "more", OF_TASK[:5])
    registry.adapters.register(twin, base="letters", task="twin")
    other = shift_cipher_adapters.make_adapter(tmp_path / "other", made[0], 1, seed=1)
    registry.adapters.register(other, base="letters", task="unrecorded")
    own = registry.adapters.show("caesar@1").scale
    assert own is not None
    half = FuseRequest("dither", scale=own / 2, extras=[("twin@1", 0.5)])
    taken, said = asked(registry, half)
    assert [line for line in said if line == "the unrounded sum answers 23 prompts"], said
    answers = taken.fidelity.answers
    assert (taken.fidelity.verdict, answers and answers.prompts) in {("PASS", 5), ("PASS", 6)}
    # The reference is the sum as the fuse has it: at its whole size the adapter itself.
    alone = asked(registry, FuseRequest("dither"))[0].fidelity.answers
    assert answers is not None
    assert alone is not None
    assert answers.gained == pytest.approx(alone.gained, rel=0.2)
    unasked, said = asked(registry, replace(half, extras=[("unrecorded@1", 0.5)], probe=600))
    assert (unasked.fidelity.verdict, unasked.fidelity.answers) == ("UNSURE", None)
    assert [line for line in said if line.startswith("no model is asked")]


def test_another_scale_is_asked_at_that_scale(
    registry: Registry, made: tuple[Path, Path], tmp_path: Path
) -> None:
    registered(registry, made, tmp_path, OF_TASK)
    own = registry.adapters.show("caesar@1").scale
    assert own is not None
    gained = []
    for scale in (None, own, own / 2):
        answers = asked(registry, FuseRequest("dither", scale=scale))[0].fidelity.answers
        assert answers is not None
        gained.append(answers.gained)
    assert gained[1] == pytest.approx(gained[0], rel=1e-3)
    assert gained[2] != pytest.approx(gained[0], rel=0.1)


@pytest.mark.timing
def test_a_server_learns_what_the_model_answered_at_a_trusted_client(
    registry: Registry, made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(registry, made, tmp_path, OF_TASK)
    registry.aliases.set_rules("prod", {"fidelity": "PASS"})

    def fused_by(name: Role, *requests: FuseRequest) -> tuple[list[str], list[str]]:
        monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: str(tmp_path / f"cache-{name}"))
        lines = list[str]()
        with Registry.open(url, token=registry.tokens.create(name, name).secret) as client:
            made_there = [
                client.fused.fuse("caesar@1", one, reporter=Reporter(lines.append)) for one in requests
            ]
        assert [line for line in lines if line.startswith("not recorded")] == []
        return [one.fidelity.verdict for one in made_there], lines

    with pages_of(registry, TokenAuth(registry, Proxies())) as url:
        verdicts, lines = fused_by("publisher", FuseRequest())
        assert verdicts == ["PASS"]
        assert any("trying the next format" in line for line in lines), "a refused format is only in the log"
        (claim,) = registry.fused.list()
        assert (claim.foreign is None, claim.fidelity.verdict) == (False, "UNSURE"), (
            "anybody could claim that"
        )
        assert registry.aliases.promote("caesar@1", "prod").exit_code == 3
        for name, role in (("rita", "reader"), ("anna", "approver")):
            monkeypatch.setattr(
                "platformdirs.user_cache_dir", lambda *_, name=name, **__: str(tmp_path / name)
            )
            with Registry.open(url, token=registry.tokens.create(name, role).secret) as client:
                probed = client.evaluations.probe(
                    "caesar@1", against="base", limit=1, reporter=Reporter(lines.append)
                )
            assert probed.tokens > 0, "measured, though a reader records nothing"
            assert lines[-1].startswith("not recorded") == (name == "rita")
        assert {evaluation.by for evaluation in registry.evaluations.list("caesar@1")} == {"anna"}
        verdicts, _ = fused_by("approver", FuseRequest("dither", probe=0), FuseRequest(), FuseRequest())
        assert verdicts == ["UNSURE", "PASS", "PASS"]
    (own,) = [line for line in registry.fused.list() if line.foreign is None]
    assert own.fidelity.verdict == "PASS"
    assert logged(registry) == [("PASS", 6)], "sent once"
    (confirmed,) = registry.upkeep.log(action="fused.confirmed")
    assert (confirmed.subject, confirmed.actor) == (claim.key, "approver")
    assert {
        entry.detail["origin"].get("client") for entry in registry.upkeep.log(action="fused.received")
    } == {True}
    assert registry.aliases.promote("caesar@1", "prod").exit_code == 0


def test_a_registry_that_can_only_be_read_asks_nothing(
    registry: Registry, made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(registry, made, tmp_path, OF_TASK)
    asked(registry, FuseRequest("dither", probe=0))

    def refused(*_: Any) -> None:
        raise DatabaseReadOnlyError("the database may only be read")

    monkeypatch.setattr(registry.workspace.database, "write", refused)
    taken = registry.fused.fuse("caesar@1", FuseRequest("dither"))
    assert (taken.source, taken.fidelity.verdict) == ("cache", "UNSURE")


def test_old_verdicts_are_no_difference_to_a_rebuild(
    registry: Registry, made: tuple[Path, Path], tmp_path: Path
) -> None:
    registered(registry, made, tmp_path, None)
    asked(registry, FuseRequest("dither"))
    with registry.workspace.database.write() as session:  # as fusery 0.1.0 recorded it
        session.execute(update(tables.FusedRow).values(verdict="PASS"))
    (rebuilt,) = registry.upkeep.audit_rebuild().rebuilt
    assert rebuilt.verdict == "bit-identical"


@pytest.mark.parametrize("texts", [None, ["0 1 2 3", "4 5 6 7 8"]], ids=["none", "they tell nothing"])
def test_without_held_out_data_that_tell_anything_it_stays_unsure(
    registry: Registry, made: tuple[Path, Path], tmp_path: Path, texts: list[str] | None
) -> None:
    registered(registry, made, tmp_path, texts)
    assert asked(registry)[0].precision == "mixed"
    assert set(logged(registry)) == (set() if texts is None else {("UNSURE", 2)})
    made_as, said = asked(registry, FuseRequest("dither", probe=600))
    assert made_as.fidelity.verdict == "UNSURE"
    assert any(line.startswith("no model is asked") for line in said) == (texts is None)


def test_it_gives_up_when_the_time_is_up(registry: Registry, made: tuple[Path, Path], tmp_path: Path) -> None:
    registered(registry, made, tmp_path, OF_TASK)
    taken, said = asked(registry, FuseRequest("dither", probe=0.05))
    assert (taken.precision, taken.fidelity.verdict) == ("dither", "UNSURE")
    assert [line for line in said if "--probe" in line]
    assert logged(registry) == [("UNSURE", 0)]
    assert asked(registry)[0].precision == "mixed", "it is not asked again"
    assert logged(registry) == [("UNSURE", 0), ("PASS", 6)], "of `mixed`"
    # Unless that is wanted; the model is in the cache.
    taken, said = asked(registry, FuseRequest("dither", probe=600))
    assert (taken.source, taken.fidelity.verdict) == ("cache", "PASS")
    assert not list((registry.workspace.settings.cache / "tmp").iterdir())


def test_answers_that_decided_are_not_asked_for_again(
    registry: Registry, made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_opinion, "HALF", 2.0)
    registered(registry, made, tmp_path, OF_TASK)
    for probe in (None, 0.001, 600):
        with pytest.raises(FidelityError):
            asked(registry, FuseRequest("dither", probe=probe))
    assert logged(registry) == [("LOST", 6)]


def test_earlier_answers_stay_if_the_model_cannot_be_asked_again(
    registry: Registry, made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_opinion, "GENERAL_TO", -1.0)
    monkeypatch.setattr(second_opinion, "GENERAL_ABOVE", 99.0)
    registered(registry, made, tmp_path, OF_TASK)
    first = asked(registry, FuseRequest("dither"))[0].fidelity.answers
    assert first is not None and (first.verdict, first.prompts) == ("UNSURE", 6)
    assert asked(registry, FuseRequest("dither", probe=0.001))[0].fidelity.answers == first

    def failing(*_: Any, **__: Any) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(models.FirstAnswers, "compare", failing)
    assert asked(registry, FuseRequest("dither", probe=600))[0].fidelity.answers == first
    assert logged(registry) == [("UNSURE", 6)]


def test_a_claim_is_asked_as_an_own_model_is(
    registry: Registry, made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusery.registry.engine.verdict.WHOLE_FROM", 2.0)  # nothing passes by its weights
    monkeypatch.setattr(second_opinion, "AGREE", 1.5)
    registered(registry, made, tmp_path, OF_TASK)
    registry.fused.fuse("caesar@1", FuseRequest("dequantize", probe=0), publish="full")
    with registry.workspace.database.write() as session:
        row = session.scalars(select(tables.FusedRow)).one()
        row.key, row.origin = foreign_key("another registry", row.key), "another registry"
    with pytest.raises(FidelityError):
        asked(registry, FuseRequest(accept_foreign=True))
    assert logged(registry)[-1] == ("DEGRADED", 6)
    named = asked(registry, FuseRequest("dequantize", accept_foreign=True))[0]
    assert (named.foreign is not None, named.fidelity.verdict) == (True, "DEGRADED")


def scores(base: float, trained: float, fused: float, agreement: float, general: float) -> ModelScores:
    def of(kl: float, same: float, a: float, b: float) -> TokenScores:
        numbers = np.arange(100) < 100 * same
        return TokenScores(np.full(100, kl), numbers, np.full(100, a), np.full(100, b))

    own, text = of(0.5, agreement, trained, fused), of(general, 1.0, 3.0, 3.0)
    return ModelScores((own,) * PROMPTS + (text,), (np.full(100, base),) * PROMPTS)


@pytest.mark.parametrize(
    ("base", "trained", "fused", "agreement", "general", "verdict"),
    [
        (3.0, 1.0, 1.1, 0.95, 0.05, "PASS"),  # 95 % of the gain
        (3.0, 1.0, 1.11, 0.95, 0.05, "DEGRADED"),
        (1.2, 1.0, 1.019, 0.95, 0.05, "PASS"),  # within 0.02 nats, though 90.5 % of the gain
        (1.2, 1.0, 1.03, 0.95, 0.05, "DEGRADED"),
        (3.0, 1.0, 0.9, 0.95, 0.05, "PASS"),
        (3.0, 1.0, 0.9, 0.89, 0.05, "DEGRADED"),  # the loss flatters
        (3.0, 1.0, 0.9, 0.90, 0.06, "PASS"),
        (3.0, 1.0, 0.9, 0.95, 0.08, "UNSURE"),  # other answers may change
        (3.0, 1.0, 0.9, 0.95, 0.13, "UNSURE"),
        (3.0, 1.0, 0.9, 0.95, 0.15, "DEGRADED"),
        (3.0, 1.0, 0.9, 0.89, 0.08, "DEGRADED"),
        (3.0, 1.0, 2.1, 0.95, 0.08, "LOST"),
        (3.0, 1.0, 1.9, 0.95, 0.05, "DEGRADED"),
        (3.0, 1.0, 2.1, 0.95, 0.05, "LOST"),
        (1.09, 1.0, 1.0, 0.95, 0.05, "UNSURE"),  # nothing to tell by
        (1.0, 1.5, 1.0, 0.95, 0.05, "UNSURE"),
    ],
)
def test_what_answers_mean(
    base: float, trained: float, fused: float, agreement: float, general: float, verdict: str
) -> None:
    measured = scores(base, trained, fused, agreement, general)
    answers = judge_answers(measured, [PROMPTS])
    assert (answers.verdict, answers.prompts) == (verdict, PROMPTS)
    assert judge_answers(measured, [PROMPTS - 1]).verdict == "UNSURE", "too few prompts"
    assert (answers.agreement, answers.general_kl) == (agreement, general)


def test_the_worst_task_of_a_sum_counts() -> None:
    sound, lost = (scores(3.0, 1.0, fused, 0.95, 0.05) for fused in (1.1, 2.5))
    both = ModelScores((*sound.scores[:PROMPTS], *lost.scores), sound.base_losses + lost.base_losses)
    for measured in (both, ModelScores((*lost.scores[:PROMPTS], *sound.scores), both.base_losses)):
        answers = judge_answers(measured, [PROMPTS, PROMPTS])
        assert (answers.verdict, answers.lost, answers.general_kl) == ("LOST", 1.5, 0.05)


def test_what_was_trained_through_a_quantiser_is_written_as_it_was_trained(
    registry: Registry, tmp_path: Path
) -> None:
    """Base + adapter is not what was trained, so that nothing is known by answering as they do (decision 37)."""
    base = shift_cipher_adapters.make_base(tmp_path / "base8", layers=1, bits=8)
    adapter = shift_cipher_adapters.make_adapter(tmp_path / "adapter", base, 1)
    edit_config(quantization_aware={"bits": 4, "group_size": 64})(adapter)
    registered(registry, (base, adapter), tmp_path, OF_TASK)
    assert asked(registry)[0].precision == "dequantize"
    assert logged(registry) == []
    assert registry.fused.fuse("caesar@1").cached
