"""What is to be done, as a law: whatever is known, doing it brings what is wanted, and touches nothing that was not brought."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as some

from fusery.integrations.sync.plan import Standing, plan

NAMES = some.sampled_from("abcd")
DIGESTS = some.sampled_from(["1" * 64, "2" * 64])
KNOWN = some.dictionaries(NAMES, DIGESTS)
STANDING = some.dictionaries(
    NAMES,
    some.builds(Standing, some.one_of(some.none(), DIGESTS), some.booleans())
    # Where it lies proves it.
    | some.builds(Standing, some.one_of(some.none(), DIGESTS), some.just(True), some.just(True)),
)
YANKED = some.frozensets(NAMES)


def done(
    wanted: dict[str, str], standing: dict[str, Standing], brought: dict[str, str]
) -> tuple[dict[str, Standing], dict[str, str]]:
    standing, brought = dict(standing), dict(brought)
    for step in plan(wanted, standing, brought):
        if step.act in ("load", "replace"):
            assert step.digest is not None
            standing[step.adapter] = Standing(step.digest, brought=True, ours=True)
            brought[step.adapter] = step.digest
        elif step.act == "unload":
            del standing[step.adapter]
            brought.pop(step.adapter, None)
        elif step.act == "record":
            assert step.digest is not None
            brought[step.adapter] = step.digest
        elif step.act == "end":
            del brought[step.adapter]
    return standing, brought


@settings(max_examples=300)
@given(KNOWN, STANDING, KNOWN, YANKED)
def test_what_is_wanted_is_there_afterwards_and_nothing_else_is_touched(
    wanted: dict[str, str], standing: dict[str, Standing], brought: dict[str, str], yanked: frozenset[str]
) -> None:
    steps = plan(wanted, standing, brought)
    after, record = done(wanted, standing, brought)
    blocked = {step.adapter for step in steps if step.act == "blocked"}
    for name, digest in wanted.items():
        if name not in blocked:
            assert after[name].digest == digest
    # Nothing is left to do, and the record says of nothing that it is there which is not, or is not wanted.
    assert not [step for step in plan(wanted, after, record) if step.act not in ("keep", "leave", "blocked")]
    assert record.keys() <= after.keys()
    assert record.keys() <= wanted.keys() | blocked
    # What was not brought is not touched.
    for name, there in standing.items():
        if not there.ours and (
            name not in brought or not there.brought or there.digest not in (None, brought[name])
        ):
            assert after[name] == there
    # Each adapter has one step, and what comes is first.
    assert sorted(step.adapter for step in steps) == sorted({*wanted, *standing, *brought})
    coming = [step.adapter in wanted for step in steps]
    assert coming == sorted(coming, reverse=True)
    # What is yanked and there is never passed over.
    for step in plan(wanted, standing, brought, yanked - wanted.keys()):
        if step.adapter in yanked - wanted.keys() and step.adapter in standing:
            assert step.act in ("unload", "blocked")
