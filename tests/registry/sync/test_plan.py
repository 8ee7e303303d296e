"""What is to be done, as a law: whatever is known, doing it brings what is wanted, and touches nothing that was not brought."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as some

from fusery.registry.sync.plan import CHANGES, Standing, plan

NAMES = some.sampled_from("abcd")
DIGESTS = some.sampled_from(["1" * 64, "2" * 64])
KNOWN = some.dictionaries(NAMES, DIGESTS)
STANDING = some.dictionaries(NAMES, some.builds(Standing, some.one_of(some.none(), DIGESTS), some.booleans()))


def done(
    wanted: dict[str, str], standing: dict[str, Standing], brought: dict[str, str]
) -> tuple[dict[str, Standing], dict[str, str]]:
    """Do what is planned; return what stands then, and what is on record."""
    standing, brought = dict(standing), dict(brought)
    for step in plan(wanted, standing, brought):
        if step.act in ("load", "replace"):
            assert step.digest is not None
            standing[step.name] = Standing(step.digest, brought=True)
            brought[step.name] = step.digest
        elif step.act == "unload":
            del standing[step.name], brought[step.name]
        elif step.act == "end":
            del brought[step.name]
    return standing, brought


@given(KNOWN, STANDING, KNOWN)
def test_what_is_wanted_is_there_afterwards(
    wanted: dict[str, str], standing: dict[str, Standing], brought: dict[str, str]
) -> None:
    steps = plan(wanted, standing, brought)
    after, record = done(wanted, standing, brought)
    blocked = {step.name for step in steps if step.act == "blocked"}
    for name, digest in wanted.items():
        if name not in blocked:
            assert after[name].digest == digest
    # Nothing is left to do, and the record says of nothing that it is there which is not wanted.
    assert not [step for step in plan(wanted, after, record) if step.act in CHANGES]
    assert {name for name in record if name not in wanted} == set()


@given(KNOWN, STANDING, KNOWN)
def test_what_was_not_brought_is_not_touched(
    wanted: dict[str, str], standing: dict[str, Standing], brought: dict[str, str]
) -> None:
    after, _ = done(wanted, standing, brought)
    for name, there in standing.items():
        if name not in brought or not there.brought:
            assert after[name] == there


@given(KNOWN, STANDING, KNOWN)
def test_each_adapter_has_one_step_and_what_comes_is_first(
    wanted: dict[str, str], standing: dict[str, Standing], brought: dict[str, str]
) -> None:
    steps = plan(wanted, standing, brought)
    assert sorted(step.name for step in steps) == sorted({*wanted, *standing, *brought})
    coming = [step.name in wanted for step in steps]
    assert coming == sorted(coming, reverse=True)
