"""What the example's adapters answer in mlx-lm, which they were trained with: 20 held-out questions, and the base's answers.

Recorded in `data/course_rec/answers.json`, since mlx-lm takes minutes for them here: greedy, in float32, at most 24 tokens.  To
make it anew: `python tests/support/models/course_answers.py BASE_FOLDER`.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "course_rec"
ADAPTERS = ("adapters_course_rec_v1_20261120", "adapters_course_rec_v2_20261124")
BASE = "SmolLM2-135M-Instruct"
NAMES = (BASE, *(adapter.removeprefix("adapters_") for adapter in ADAPTERS))
"""Models, as the bundles of the tests call them."""

MAX_TOKENS = 24
_COUNT = 20
_RECORD = Path(__file__).resolve().parents[2] / "data" / "course_rec" / "answers.json"


def dialogues() -> list[tuple[str, str]]:
    lines = (EXAMPLE / "data" / "valid.jsonl").read_text(encoding="utf-8").splitlines()
    chosen = [json.loads(lines[number * len(lines) // _COUNT])["messages"] for number in range(_COUNT)]
    return [(user["content"], assistant["content"]) for user, assistant in chosen]


def questions() -> list[str]:
    return [question for question, _ in dialogues()]


@cache
def answers() -> dict[str, list[str]]:
    """Return the recorded answers by the model's name, in the order of the questions, without the space around them."""
    found: dict[str, list[str]] = json.loads(_RECORD.read_text(encoding="utf-8"))
    return found


def _answer(base: str, adapter: Path | None) -> list[str]:
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_lm import generate, load

    model, tokenizer = load(base, adapter_path=adapter and str(adapter))[:2]
    single = tree_map(
        lambda array: array.astype(mx.float32) if array.dtype == mx.bfloat16 else array, model.parameters()
    )
    model.update(single)
    found = []
    for question in questions():
        chat = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True)
        found.append(generate(model, tokenizer, prompt, max_tokens=MAX_TOKENS).strip())
    return found


def main() -> None:
    adapters = (None, *(EXAMPLE / adapter for adapter in ADAPTERS))
    found = {name: _answer(sys.argv[1], adapter) for name, adapter in zip(NAMES, adapters, strict=True)}
    _RECORD.parent.mkdir(exist_ok=True)
    _RECORD.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
