"""The contract of a source of runs: a tracker whose adapters `fusery register` takes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from fusery.registry.errors import BadInputError, UnknownReferenceError
from fusery.registry.exchange.import_runs import RunSource
from fusery.registry.exchange.tracked_run import TrackedRun, is_inside, tracked_adapters


class SourceContract:
    """All that a source promises.

    A subclass says its `read`, as a static method where it is a function, and gives the fixture `place`: where a tracker keeps
    two runs or more, each with an adapter among its files.
    """

    read: RunSource
    nowhere: str
    """A place where nothing is."""

    def runs(self, place: str, only: Iterable[str] = ()) -> list[TrackedRun]:
        """Return what is read of some runs, or of all."""
        return list(self.read(place, runs=tuple(only)))

    def test_runs_are_ordered_and_have_unique_ids(self, place: str) -> None:
        runs = self.runs(place)
        assert len(runs) >= 2
        began = [run.record.started_at for run in runs]
        assert began == sorted(began)
        assert len({run.id for run in runs}) == len(runs)
        assert all(run.id and run.name and run.project and run.problem is None for run in runs)

    def test_files_of_a_run_include_an_adapter(self, place: str) -> None:
        for run in self.runs(place):
            assert all(map(is_inside, run.files))
            assert tracked_adapters(run)

    def test_files_are_what_they_are_listed_as(self, place: str, tmp_path: Path) -> None:
        for number, run in enumerate(self.runs(place)):
            for path, size in run.files.items():
                target = tmp_path / "fetched" / str(number) / path
                target.parent.mkdir(parents=True, exist_ok=True)
                run.fetch(path, target)
                assert target.is_file() and not target.is_symlink()
                assert size in (None, target.stat().st_size)

    def test_single_runs_are_read_by_their_ids(self, place: str) -> None:
        wanted = self.runs(place)[-1].id
        assert [run.id for run in self.runs(place, [wanted])] == [wanted]

    def test_missing_run_is_reported(self, place: str) -> None:
        with pytest.raises(UnknownReferenceError):
            self.runs(place, ["0123456789abcdef"])

    def test_empty_place_is_reported(self) -> None:
        with pytest.raises((BadInputError, UnknownReferenceError)):
            self.runs(self.nowhere)
