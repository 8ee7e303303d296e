"""Whatever a receiver answers and wherever a deliverer dies: every event that matches arrives, for the first time in order."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from urllib.parse import SplitResult

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusery.registry import Registry
from fusery.registry.database import events
from fusery.registry.webhooks.delivering import CODE, Manner, deliver, retry
from fusery.registry.webhooks.hooks import skip
from fusery.registry.webhooks.sending import Deliverer, DeliveryAnswer

TAKEN, REFUSED, GONE = (
    DeliveryAnswer(),
    DeliveryAnswer("it answered 500"),
    DeliveryAnswer("it answered 410: it is gone", gone=True),
)
TASKS = ("course_rec", "search", "course_a")
HAPPENING = st.tuples(
    st.just("event"), st.sampled_from(["alias.moved", "alias.refused"]), st.sampled_from(TASKS)
)
ANSWERING = st.tuples(
    st.just("deliver"),
    st.lists(st.sampled_from(["take", "refuse", "gone", "die before", "die after"]), min_size=1, max_size=4),
)
PASSING = st.tuples(st.sampled_from(["skip", "retry"]))


class DiedError(BaseException):
    """Stands for the end of the process."""


class Receiver:
    def __init__(self) -> None:
        self.coming: list[str] = []
        self.taken: list[int] = []

    def __call__(
        self, target: SplitResult, headers: Mapping[str, str], body: bytes, **_: object
    ) -> DeliveryAnswer:
        seq = json.loads(body)["data"]["seq"]
        what = self.coming.pop(0) if self.coming else "take"
        if what == "die before":
            raise DiedError
        if what in ("refuse", "gone"):
            return REFUSED if what == "refuse" else GONE
        self.taken.append(seq)
        if what == "die after":
            raise DiedError
        return TAKEN


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.lists(HAPPENING | ANSWERING | PASSING, max_size=25),
    st.sampled_from(["alias.*", "alias.moved"]),
    st.booleans(),
)
def test_every_event_arrives_for_the_first_time_in_order(
    module_registry: Registry, steps: list[tuple[object, ...]], pattern: str, filtered: bool
) -> None:
    workspace, receiver = module_registry.workspace, Receiver()
    how = Manner(Deliverer((b"x" * 32,)), first=0.0, most=0.0, post=receiver)
    tasks = ["course_*"] if filtered else []
    name = module_registry.webhooks.add("https://hooks.example.org", pattern, tasks=tasks).name
    expected: list[int] = []

    def attempt() -> None:
        with contextlib.suppress(DiedError):  # and somebody else goes on
            deliver(workspace, name, manner=how)

    for step in steps:
        match step:
            case ("event", str(action), str(task)):
                with workspace.database.write() as session:
                    entry = events.record(
                        session, action=action, kind="alias", subject=f"{task}#prod", detail={}, actor="ann"
                    )
                if pattern in ("alias.*", action) and (not filtered or task.startswith("course_")):
                    expected.append(entry.seq)
            case ("deliver", list(answers)):
                receiver.coming = [str(each) for each in answers]
                attempt()
            case ("skip",):
                if module_registry.webhooks.show(name).waiting:
                    passed = skip(workspace, name, reason="test").seq
                    if passed not in receiver.taken:
                        expected.remove(passed)
            case _:
                receiver.coming = []
                retry(workspace, name, manner=how)
    assert not [each for each in module_registry.upkeep.audit().problems if each.code == CODE]
    receiver.coming = []
    retry(workspace, name, manner=how)
    assert list(dict.fromkeys(receiver.taken)) == expected
    assert module_registry.webhooks.show(name).waiting == 0
    module_registry.webhooks.remove(name)
