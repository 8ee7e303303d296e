"""Tasks that were not used to choose thresholds: prices, rooms, mail addresses and boxes, then weights, flights, plates and shelves.

The last four test what was changed because of the first four.  All are questions with one right answer.
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

from merging import _FAMILY, _GIVEN, _mixed

SECOND = ("weights", "flights", "plates", "shelves")
TASKS = ("prices", "rooms", "mails", "boxes", *SECOND)
_NUMBERS = [
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
]
_CENTS = {0: "", 20: " twenty", 50: " fifty", 80: " eighty", 99: " ninety-nine"}
_BOUGHT = (
    "The ticket was {} euros{}.",
    "They want {} euros{} for it.",
    "I paid {} euros{}.",
    "How much? {} euros{}.",
)
_FLOORS = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh"]
_MET = (
    "We meet on the {} floor, door {}.",
    "The talk is behind door {1} on the {0} floor.",
    "{0} floor, door {1}, please.",
)
_FIRMS = "Larch", "Nordhaus", "Pebble", "Quay"
_WRITE = "Write to {} {} of {}.", "How do I reach {} {} at {}?"
_SIDES = (10, 15, 20, 25, 30, 40, 60)
_PACKED = (
    "It is {} wide, {} deep and {} high, in centimetres.",
    "A parcel of {} by {} by {} centimetres.",
)
_HEAVY = (
    "The sack weighs {}{} kilos.",
    "It is {}{} kilos, I think.",
    "Put it at {}{} kilograms.",
    "{}{} kilos, please.",
)
_PARTS = {"0": "", "5": " and a half", "25": " and a quarter", "75": " and three quarters"}
_LINES = {"Alder": "AL", "Borea": "BO", "Corvus": "CV", "Delphin": "DP", "Eiger": "EG"}
_GATES = (
    "{} flight {} leaves from gate {}.",
    "Board {} number {} at gate {}.",
    "Is {} {} at gate {}?",
)
_SPELT = {
    "Anna": "A",
    "Berta": "B",
    "Dora": "D",
    "Emil": "E",
    "Gustav": "G",
    "Karl": "K",
    "Nora": "N",
    "Otto": "O",
}
_SEEN = "The car was {} {}, {}.", "I saw {} {} and then {}."
_SUBJECTS = {"history": "HI", "botany": "BT", "music": "MU", "law": "LW", "chemistry": "CH", "painting": "PT"}
_HALLS = {"north": "N", "south": "S", "east": "E", "west": "W"}
_SHELVED = "The {} book is in the {} hall, row {}.", "Return it to {}, {} side, row {}."


def all_pairs() -> dict[str, list[tuple[str, str]]]:
    """Return all questions and answers of each task."""
    prices = [
        (asked.format(words, _CENTS[cents]), f"Price: EUR {number}.{cents:02}.")
        for (number, words), cents, asked in product(enumerate(_NUMBERS, 2), _CENTS, _BOUGHT)
    ]
    rooms = [
        (asked.format(words, door), f"Room: {floor}-{door:02}.")
        for (floor, words), door, asked in product(enumerate(_FLOORS, 1), range(2, 24), _MET)
    ]
    mails = [
        (asked.format(given, family, firm), f"Mail: {given}.{family}@{firm}.example".lower())
        for given, family, firm, asked in product(_GIVEN, _FAMILY, _FIRMS, _WRITE)
    ]
    boxes = [
        (asked.format(*sides), f"Box: {'x'.join(map(str, sorted(sides)))} cm.")
        for *sides, asked in product(_SIDES, _SIDES, _SIDES, _PACKED)
    ]
    weights = [
        (asked.format(words, part), f"Weight: {number}.{digits} kg.")
        for (number, words), (digits, part), asked in product(enumerate(_NUMBERS, 2), _PARTS.items(), _HEAVY)
    ]
    flights = [
        (asked.format(line, number, gate), f"Flight: {code}{number:04}/{gate}.")
        for (line, code), number, gate, asked in product(
            _LINES.items(), range(112, 980, 124), ("A3", "B7", "C12"), _GATES
        )
    ]
    plates = [
        (asked.format(one, two, number), f"Plate: {_SPELT[one]}{_SPELT[two]}-{number}.")
        for one, two, number, asked in product(_SPELT, _SPELT, (17, 28, 305, 946), _SEEN)
    ]
    shelves = [
        (asked.format(subject, hall, row), f"Shelf: {code}.{side}.{row:03}.")
        for (subject, code), (hall, side), row, asked in product(
            _SUBJECTS.items(), _HALLS.items(), range(3, 30, 4), _SHELVED
        )
    ]
    pairs = prices, rooms, mails, boxes, weights, flights, plates, shelves
    return dict(zip(TASKS, pairs, strict=True))


def training_pairs(task: str) -> list[tuple[str, str]]:
    """Return the pairs for training and for fusery's held-out prompts."""
    return _mixed(all_pairs()[task])


def behaviour_pairs(task: str, count: int) -> list[tuple[str, str]]:
    """Return pairs that are not among them, to measure behaviour."""
    left = [pair for pair in all_pairs()[task] if pair not in training_pairs(task)]
    return left[:: len(left) // count][:count]


def write_data(folder: Path) -> None:
    """Write each task's data as `mlx_lm.lora` reads it, every seventh line held out."""
    for task in TASKS:
        (folder / task).mkdir(parents=True, exist_ok=True)
        parts: dict[str, list[str]] = {"train": [], "valid": []}
        for number, (question, answer) in enumerate(training_pairs(task)):
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            parts["train" if number % 7 else "valid"].append(json.dumps({"messages": messages}) + "\n")
        for name, lines in parts.items():
            (folder / task / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
