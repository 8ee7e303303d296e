"""Write the data of the task `dates`: dates as people write them, to be filed as year, month and day.

    python benchmarks/make_dates.py

A skill and not a memory: no held-out date is in the training data.  The output is the same every time.
"""

from __future__ import annotations

import json
from calendar import month_abbr, month_name
from datetime import date, timedelta
from pathlib import Path

DATA = Path(__file__).parent / "adapters" / "data" / "dates"
TRAIN, VALID = 240, 40
WORDINGS = (
    "File the letter of {day} {month} {year}.",
    "A note from {month} {day}, {year}. Where does it go?",
    "{short} {day} {year}, please.",
    "The contract was signed on the {day}{th} of {month} {year}.",
    "Put this away: {day} {short}. {year}",
    "It was written in {year}, on {month} {day}{th}.",
)
FIRST, STRIDE = date(1911, 1, 1), 97
"""Days apart, so that years, months and days all change from one date to the next."""


def main() -> None:
    """Write train.jsonl and valid.jsonl."""
    DATA.mkdir(parents=True, exist_ok=True)
    lines = [_line(number) for number in range(TRAIN + VALID)]
    held_out = lines[:: len(lines) // VALID]
    for name, part in (
        ("train", [line for line in lines if line not in held_out]),
        ("valid", held_out),
    ):
        (DATA / f"{name}.jsonl").write_text("".join(part), encoding="utf-8")


def _line(number: int) -> str:
    day = FIRST + timedelta(days=STRIDE * number)
    th = "th" if 11 <= day.day <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(day.day % 10, "th")
    question = WORDINGS[number % len(WORDINGS)].format(
        day=day.day, month=month_name[day.month], short=month_abbr[day.month], year=day.year, th=th
    )
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": f"Filed under {day.isoformat()}."},
    ]
    return json.dumps({"messages": messages}) + "\n"


if __name__ == "__main__":
    main()
