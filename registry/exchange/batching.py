"""Which things of a package are taken in together: small adapters of one task that do not need one another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .package import Adapter, Item

MOST = 32
"""Adapters that are recorded in one transaction: enough to share what each costs, few enough that no other writer waits long."""

MOST_BYTES = 64 << 20
"""Bytes of their files together, which lie on this machine meanwhile."""


def batches_of(package: Iterable[Item]) -> Iterator[list[Item]]:
    """Yield a package in its order, in lists of what is taken in together; all but adapters are by themselves.

    Adapters of other tasks are not together, since each is held against what is on record of another task; nor are those on
    other bases.
    """
    batch, size = list[Item](), 0
    for item in package:
        if batch and not (_goes_with(item, batch) and size + item.files.manifest.size <= MOST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += item.files.manifest.size
    if batch:
        yield batch


def _goes_with(item: Item, batch: list[Item]) -> bool:
    first = batch[0]
    if not isinstance(item, Adapter) or not isinstance(first, Adapter) or len(batch) >= MOST:
        return False
    needed = [item.parent, *(source for _, source in item.sources)]
    alike = item.task == first.task and item.base is first.base
    return alike and not any(other is each for other in needed for each in batch)
