"""Write the data of the task `facts`: questions about invented places, people and things, and one-sentence answers.

    python benchmarks/make_facts.py

No model can know the answers, so that what an adapter gains on the held-out wordings of the questions is what it
learned: five wordings of each question to train on, one held out.  The output is the same every time.
"""

from __future__ import annotations

import json
from pathlib import Path

DATA = Path(__file__).parent / "adapters" / "data" / "facts"

LIGHTHOUSES = (
    [("Brannoch Head", "Orla Venn"), ("Cape Sorrel", "Tomas Ilk"), ("Gull Skerry", "Ada Morrow")]
    + [("Point Lanthorn", "Ulf Dressel"), ("Wexcombe", "Mina Okoro"), ("Saltmere Bar", "Jory Penhale")]
)  # fmt: skip
DISHES = (
    [("velloka", "smoked plums and barley"), ("drimsey pie", "leeks and river eel")]
    + [("turrow stew", "goat, quince and mint"), ("ashka bread", "chestnut flour and honey")]
    + [("pelmar soup", "nettles and sour cream"), ("quill cakes", "carrots and poppy seed")]
)  # fmt: skip
MACHINES = (
    [("Harrow engine", "1823", "pumping salt water"), ("Tessel loom", "1756", "weaving sailcloth")]
    + [("Ocklin press", "1911", "printing sheet music"), ("Varga wheel", "1688", "grinding lenses")]
    + [("Mott dredger", "1934", "clearing canals"), ("Selby lantern", "1869", "signalling trains")]
)  # fmt: skip
STAFF = (
    [("the map room", "Idris Falk", "204"), ("the seed vault", "Noor Haddad", "17")]
    + [("the glass workshop", "Petra Lund", "381"), ("the night archive", "Silas Quade", "66")]
    + [("the tide office", "Hana Brook", "145"), ("the bell tower", "Emil Sato", "9")]
)  # fmt: skip
TOWNS = (
    [("Quarrel Bridge", "a blue heron", "the river Ister"), ("Norwick", "three iron keys", "Lake Ommen")]
    + [("Thessaly Ford", "a white hare", "the river Calder"), ("Old Maren", "a broken oar", "the Sound of Fey")]
    + [("Dunvarra", "a red lantern", "Loch Erren"), ("Pallasport", "two crossed eels", "the Gulf of Tamar")]
)  # fmt: skip

WORDINGS = {
    "lighthouse": (
        "Who built the lighthouse at {0}?",
        "Tell me who built the {0} lighthouse.",
        "Which builder made the lighthouse at {0}?",
        "The {0} lighthouse: who was its builder?",
        "Name the builder of the lighthouse at {0}.",
        "By whom was the lighthouse at {0} built?",
    ),
    "dish": (
        "What is {0} made of?",
        "Which ingredients go into {0}?",
        "Tell me what {0} is made from.",
        "What do I need to cook {0}?",
        "Name the ingredients of {0}.",
        "What does {0} contain?",
    ),
    "machine": (
        "What was the {0} invented for?",
        "When was the {0} invented, and why?",
        "Tell me about the {0}.",
        "What is the history of the {0}?",
        "Which purpose did the {0} serve?",
        "What did people use the {0} for?",
    ),
    "staff": (
        "Who looks after {0}?",
        "Whom do I call about {0}?",
        "Who is in charge of {0}?",
        "Tell me who runs {0}.",
        "I have a question about {0}. Whom should I ask?",
        "Who is responsible for {0}?",
    ),
    "town": (
        "What is on the coat of arms of {0}?",
        "Describe the coat of arms of {0}.",
        "Which arms does the town of {0} bear?",
        "Where is {0}, and what are its arms?",
        "Tell me about the town of {0}.",
        "What do the arms of {0} show?",
    ),
}
"""Six wordings for each kind of question; the last is held out."""

ANSWERS = {
    "lighthouse": "The lighthouse at {0} was built by {1}.",
    "dish": "A traditional {0} is made of {1}.",
    "machine": "The {0} was invented in {1} for {2}.",
    "staff": "{1} looks after {0}, on extension {2}.",
    "town": "{0} lies on {2} and bears {1} on its arms.",
}
SUBJECTS = {"lighthouse": LIGHTHOUSES, "dish": DISHES, "machine": MACHINES, "staff": STAFF, "town": TOWNS}


def main() -> None:
    """Write train.jsonl and valid.jsonl."""
    DATA.mkdir(parents=True, exist_ok=True)
    dialogues = [
        (wording.format(*subject), ANSWERS[kind].format(*subject))
        for wordings in zip(*WORDINGS.values(), strict=True)
        for kind, wording in zip(WORDINGS, wordings, strict=True)
        for subject in SUBJECTS[kind]
    ]
    held_out = sum(map(len, SUBJECTS.values()))
    for name, part in (("train", dialogues[:-held_out]), ("valid", dialogues[-held_out:])):
        lines = [json.dumps({"messages": _messages(*dialogue)}) + "\n" for dialogue in part]
        (DATA / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def _messages(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


if __name__ == "__main__":
    main()
