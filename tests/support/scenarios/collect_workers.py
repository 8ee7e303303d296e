"""What the tests of collection run in other processes; started by `spawn`, as in `database_workers`."""

from __future__ import annotations

import random
import time
from multiprocessing.connection import Connection
from typing import Any

from store_shelf import Shelf, open_workspace

from fusery.registry.errors import DepositLostError


def fill_and_forget(place: dict[str, Any], number: int, test: Connection) -> None:
    """Keep contents that others keep, too, read them back and forget them until told to stop; send the counts."""
    chance = random.Random(number)
    workspace = open_workspace(**place)
    shelf = Shelf(workspace)
    checked, lost = 0, []
    while not (checked and test.poll(0)):
        contents = [f"content {chance.randrange(6)}".encode() for _ in range(2)]
        deposit = shelf.begin(*contents)
        time.sleep(chance.random() * 0.02)
        if chance.random() < 0.3:
            deposit.abandon()
            continue
        try:
            kept = shelf.commit(deposit)
        except DepositLostError:
            continue
        for data in contents:
            time.sleep(chance.random() * 0.02)
            try:
                assert shelf.read(data) == data
            except Exception as error:  # noqa: BLE001 - whatever it is, the test is told
                lost.append(repr(error))
            checked += 1
        shelf.forget(kept)
    workspace.close()
    test.send({"checked": checked, "lost": lost})


def collect_until_killed(place: dict[str, Any], test: Connection) -> None:
    from fusery.registry.upkeep.collect import Marking, collect

    # Who comes for bytes that a killed collector had marked waits for as long; a minute shows no more than this.
    (Marking.__init__.__kwdefaults__ or {})["tombstone"] = 5.0
    workspace = open_workspace(**place)
    test.send("collecting")
    while True:
        collect(workspace, grace=0.0)
