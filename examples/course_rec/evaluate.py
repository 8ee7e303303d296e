"""Ask a model every held-out question of data/valid.jsonl and count the answers that are right to the letter.

python evaluate.py SmolLM2-135M-Instruct
python evaluate.py SmolLM2-135M-Instruct --adapter adapters_course_rec_v2_20261124
python evaluate.py FUSED_MODEL --limit 20 --show
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HERE = Path(__file__).parent
MAX_TOKENS = 24


def main() -> None:
    """Parse the arguments, ask, and print one line with the count."""
    parser = argparse.ArgumentParser(description="Count right answers to held-out questions.")
    parser.add_argument("model", help="a model folder")
    parser.add_argument("--adapter", help="an adapter folder")
    parser.add_argument("--limit", type=int, help="ask only the first so many questions")
    parser.add_argument(
        "--show", action="store_true", help="print every question, answer and expected answer"
    )
    arguments = parser.parse_args()
    lines = (HERE / "data" / "valid.jsonl").read_text(encoding="utf-8").splitlines()
    dialogues = [json.loads(line)["messages"] for line in lines][: arguments.limit]
    answers = ask(arguments.model, arguments.adapter, [user["content"] for user, _ in dialogues])
    right = 0
    for (user, assistant), answer in zip(dialogues, answers, strict=True):
        right += answer == assistant["content"]
        if arguments.show:
            print(f"{'+' if answer == assistant['content'] else '-'} {user['content']}  ->  {answer!r}")
    print(f"{right} of {len(dialogues)} answers are right")


def ask(model_folder: str, adapter: str | None, questions: list[str]) -> list[str]:
    """Return the model's greedy answers, without the space around them."""
    from mlx_lm import generate, load

    model, tokenizer = load(model_folder, adapter_path=adapter)[:2]
    answers = []
    for question in questions:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True
        )
        answers.append(generate(model, tokenizer, prompt, max_tokens=MAX_TOKENS).strip())
    return answers


if __name__ == "__main__":
    main()
