"""What `fusery probe` and `calibrate` refuse; `views.txt` has what they print."""

from __future__ import annotations

from fixture_types import Fusery

from .conftest import require_refusals


def test_refusals(stocked: Fusery) -> None:
    require_refusals(
        stocked,
        ("probe tiny", "--against"),
        ("probe course_rec@1 --against base --precision keep", "--precision"),
        ("probe course_rec@1 --prompts absent.jsonl", "absent.jsonl"),
        ("probe course_rec@1 --against nothing@1", "unknown_reference"),
        ("probe course_rec@1 --limit 0", "--limit"),
        ("calibrate nothing", "unknown_reference"),
        ("calibrate tiny --prompts absent.jsonl", "absent.jsonl"),
        ("fuse course_rec@1 --precision keep --probe auto", "leave out --precision"),
        ("fuse --all --probe auto", "fusery fuse REF --probe auto"),
        ("fuse course_rec@1 --probe auto --probe-within 0", "--probe-within"),
    )
    ran = stocked("fuse", "course_rec@1", "--probe", "auto")
    assert (ran.code, "tiny is not quantised" in ran.err, ran.out[:6]) == (0, True, "fused "), ran.err
