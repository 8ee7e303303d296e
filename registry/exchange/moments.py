"""Check the dates in a package: no date may be in the future, or before the record that it belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from ..errors import BadInputError
from ..parsing import CLOCK_SKEW, require_past
from ..tables.values import kind_of
from .bounds import parts_of
from .package import Adapter, Item


def require_moments(item: Item, now: datetime) -> None:
    """Refuse an item with a date in the future, or before the record that it belongs to.

    Raises:
        BadInputError: the item has such a date.
    """
    for table, values in parts_of(item):
        for column in table.columns:
            moment = values.get(column.name)
            if moment is not None and kind_of(column) == "moment":
                require_past(f"{table.name}.{column.name} of {item.name[:200]}", moment, now=now)
    for event in item.events:
        require_past(f"date of a log entry of {item.name[:200]}", _moment(event["at"], item), now=now)
    if isinstance(item, Adapter):
        for what, earlier, later in _ordered(item):
            if later < earlier - CLOCK_SKEW:
                raise BadInputError(
                    f"invalid {what} of {item.name[:200]}: {later:%Y-%m-%d} is before {earlier:%Y-%m-%d}",
                    hint="fusery audit, there",
                )


def _moment(text: str, item: Item) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return moment
    except ValueError:
        pass
    raise BadInputError(
        f"invalid date of a log entry of {item.name[:200]}: {text[:40]!r}", hint="fusery audit, there"
    )


def _ordered(item: Adapter) -> Iterator[tuple[str, datetime, datetime]]:
    """Yield the name of each date, the earliest date allowed, and the date itself.

    An amendment from a third registry may be older than this record, but it only takes effect later.
    """
    created = item.values["created_at"]
    for yank in item.yanks:
        yield "date of a yank", created, yank["at"]
        if yank["lifted_at"] is not None:
            yield "end of a yank", yank["at"], yank["lifted_at"]
    for amendment in item.amendments:
        yield "date of an amendment", created, amendment["since"]
        yield "start of an amendment", amendment["at"], amendment["since"]
    for evaluation in item.evaluations:
        yield "date of an evaluation", created, evaluation["at"]
        if evaluation["withdrawn_at"] is not None:
            yield "withdrawal of an evaluation", evaluation["at"], evaluation["withdrawn_at"]
