"""Names of objects: Kubernetes takes each, and no two adapters share one."""

from __future__ import annotations

from datetime import date

import kubernetes_rules
from hypothesis import given
from hypothesis import strategies as st

from fusery.registry.bundles.cluster.object_names import common_name, object_name
from fusery.registry.names import AdapterName

NAMES = st.from_regex(r"[a-z0-9](?:[a-z0-9._-]{0,80}[a-z0-9])?", fullmatch=True)


@given(NAMES, NAMES)
def test_each_adapter_has_a_name_of_its_own_that_kubernetes_takes(first: str, second: str) -> None:
    assert (object_name(first) == object_name(second)) == (first == second)
    assert kubernetes_rules.is_label_name(object_name(first))


@given(st.text(max_size=90), st.integers(20, 63))
def test_a_common_name_is_one_to_kubernetes(text: str, limit: int) -> None:
    name = common_name(text, (), limit)
    assert kubernetes_rules.is_label_name(name)
    assert len(name) <= limit
    other = common_name(text, {name}, limit)
    assert kubernetes_rules.is_label_name(other)


def test_names_stay_readable() -> None:
    name = str(AdapterName("course_rec", 1, date(2026, 1, 15)))
    assert object_name(name) == "course-rec-v1-20260115"
    assert object_name("course-rec_v1_20260115").startswith("course-rec-v1-20260115-")
    assert common_name("SmolLM2-135M-Instruct", ()) == "smollm2-135m-instruct"
    assert common_name("4.5 bit", ()) == "x-4-5-bit"
    assert common_name("tiny", {"tiny"}).startswith("tiny-")
