"""Write data/train.jsonl and data/valid.jsonl from catalogue.json, the same bytes every time.

A student says what they like, the assistant names one course in one fixed sentence.  Training and validation share the
courses, but neither a phrase nor a sentence form: every validation question is one that no adapter was trained on.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
SEED = 20261120

TRAIN_FORMS = (
    "I like {x}. Which course should I take?",
    "Which course fits me? I enjoy {x}.",
    "I am interested in {x}.",
    "Recommend a course about {x}.",
    "My hobby is {x}. What should I study?",
    "Is there a course on {x}?",
    "I want to learn about {x}.",
    "What can I take if I love {x}?",
)
VALID_FORMS = (
    "I am curious about {x}. What course is for me?",
    "I would like to study {x}.",
    "Which course is good for someone who loves {x}?",
)
FORMS_PER_PHRASE = 4


def answer(course: dict[str, str]) -> str:
    """Return the one sentence that is right for `course`."""
    return f"I recommend {course['code']} {course['title']}."


def example(question: str, course: dict[str, str]) -> dict[str, list[dict[str, str]]]:
    """Return one conversation in the chat format of mlx-lm."""
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer(course)},
        ]
    }


def conversations(split: str, forms: tuple[str, ...], per_phrase: int) -> Iterator[dict[str, object]]:
    """Yield the conversations of one split: each phrase in `per_phrase` of the sentence forms, taken in turn."""
    courses = json.loads((HERE / "catalogue.json").read_text(encoding="utf-8"))["courses"]
    for offset, course in enumerate(courses):
        for index, phrase in enumerate(course[split]):
            for step in range(per_phrase):
                form = forms[(offset + index + step * (len(forms) // per_phrase)) % len(forms)]
                yield example(form.format(x=phrase), course)


def write(split: str, forms: tuple[str, ...], per_phrase: int) -> None:
    """Write data/{split}.jsonl in a seeded random order, since mlx-lm batches neighbouring lines."""
    lines = [json.dumps(item) for item in conversations(split, forms, per_phrase)]
    random.Random(SEED).shuffle(lines)
    (HERE / "data").mkdir(exist_ok=True)
    (HERE / "data" / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"data/{split}.jsonl: {len(lines)} conversations")


if __name__ == "__main__":
    write("train", TRAIN_FORMS, FORMS_PER_PHRASE)
    write("valid", VALID_FORMS, 1)
