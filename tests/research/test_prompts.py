"""Reading prompts from files that nobody vouches for, and making them into tokens as mlx-lm does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.tuner.datasets import ChatDataset, CompletionsDataset, TextDataset

from fusery.registry.errors import BadInputError
from fusery.research import prompts as module
from fusery.research.models import load_tokenizer
from fusery.research.prompts import LONGEST, Prompt, built_in, read_prompts, tokenise
from fusery.storage.errors import FormatError, MissingFileError

DIALOGUE = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Which course?"},
    {"role": "assistant", "content": "I recommend KITE-120."},
]


@pytest.fixture(scope="session")
def tokenizer(tiny_base: Path) -> Any:
    return load_tokenizer(tiny_base)


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def test_each_format_gives_the_tokens_and_the_mask_of_mlx_lm(tokenizer: Any, tmp_path: Path) -> None:
    chat, pair = {"messages": DIALOGUE}, {"prompt": "Name a dog.", "completion": "Rex."}
    text = {"text": "The ferry leaves at seven."}
    samples = tokenise(read_prompts(write(tmp_path / "data.jsonl", chat, pair, text)), tokenizer)
    expected = [
        ChatDataset([], tokenizer, mask_prompt=True).process(chat),
        CompletionsDataset([], tokenizer, "prompt", "completion", True).process(pair),
        TextDataset([], tokenizer).process(text),
    ]
    for sample, (tokens, offset) in zip(samples, expected, strict=True):
        assert list(sample.tokens) == list(tokens)
        assert sample.first == max(offset, 1)
        assert list(sample.targets) == list(tokens)[max(offset, 1) :]
    assert [sample.label for sample in samples] == ["Which course?", "Name a dog.", text["text"]]
    assert tokenizer.decode(samples[0].targets.tolist()).startswith("I recommend KITE-120.")


def test_tool_calls_give_the_tokens_and_the_mask_of_mlx_lm(tmp_path: Path) -> None:
    folder = tiny_models.make_base(tmp_path / "base", layers=1)
    calls = "{% for call in message.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}"
    template = f"{{% for message in messages %}}{{{{ message.role }}}}: {{{{ message.content or '' }}}}{calls}{{% endfor %}}"
    (folder / "chat_template.jinja").write_text(template)
    tokenizer = load_tokenizer(folder)
    call = {"id": "1", "type": "function", "function": {"name": "ferries", "arguments": '{"at": 7}'}}
    question = {"role": "user", "content": "When?"}
    for answer in ({"tool_calls": [call]}, {"tool_calls": [call], "content": None}):
        chat = {"messages": [question, {"role": "assistant", **answer}]}
        (sample,) = tokenise(read_prompts(write(tmp_path / "data.jsonl", chat)), tokenizer)
        tokens, offset = ChatDataset([], tokenizer, mask_prompt=True).process(chat)
        assert (list(sample.tokens), sample.first) == (list(tokens), offset)
        assert "ferries" in tokenizer.decode(sample.targets.tolist())
        assert sample.label == "When?"
    (sample,) = tokenise(
        read_prompts(write(tmp_path / "data.jsonl", {"messages": chat["messages"][1:]})), tokenizer
    )
    assert sample.label == ""


def test_prompts_may_come_from_a_pipe() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"one\ntwo\n")
    os.close(writer)
    assert [prompt.label for prompt in read_prompts(Path(f"/dev/fd/{reader}"))] == ["one", "two"]
    os.close(reader)


def test_plain_text_is_one_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("one\n\n  two  \nthrée\n[INST] hello [/INST]\n[1, 2] is a list\n", encoding="utf-8")
    lines = ["one", "two", "thrée", "[INST] hello [/INST]", "[1, 2] is a list"]
    assert [prompt.text for prompt in read_prompts(path)] == lines
    assert len(read_prompts(path, 2)) == 2
    path = write(
        tmp_path / "anything", {"text": "one"}, {"text": "two"}
    )  # the first line decides that the file is JSON
    assert [prompt.text for prompt in read_prompts(path)] == ["one", "two"]


@pytest.mark.timing
def test_json_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    for value in ([{"text": "one"}], ["a", "two\nlines"], []):
        for indent, encoding in ((None, "utf-8"), (2, "utf-8"), (None, "utf-8-sig")):
            path.write_text(json.dumps(value, indent=indent), encoding=encoding)
            with pytest.raises(BadInputError) as caught:
                read_prompts(path)
            assert "jq -c " in str(caught.value.hint)
        if value == [{"text": "one"}] and shutil.which(
            "jq"
        ):  # the hint's command converts the array to prompts
            command = str(caught.value.hint).removeprefix("of objects: ")
            subprocess.run(["sh", "-c", command], check=True, cwd=tmp_path)
            assert len(read_prompts(tmp_path / "prompts.jsonl")) == len(value)
    path.write_text('{"text": "one"}\n', encoding="utf-8-sig")
    assert [prompt.text for prompt in read_prompts(path)] == ["one"]


BAD_LINES = [
    *("no json", "[]", '{"other": 1}', '{"text": 1}', '{"text": "  "}', '{"text": "a", "text": "b"}'),
    *('{"text": "\\ud800"}', '{"text": "\\u0000"}', '{"text": NaN}', '{"prompt": "x", "completion": null}'),
    *('{"messages": []}', '{"messages": "hello"}', '{"messages": [{"role": "user"}]}', "[" * 5000),
    *('{"messages": [{"role": "user", "content": null}]}', '{"messages": [{"role": "x", "tool_calls": []}]}'),
    *('{"messages": [{"role": 1, "content": "x"}]}', '{"messages": [{"role": "user", "content": ["x"]}]}'),
    '{"messages": [{"role": "user", "content": "x"}], "tools": {}}',
]


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    for line in BAD_LINES:
        path.write_text(f'{{"text": "fine"}}\n{line}\n', encoding="utf-8")
        with pytest.raises(FormatError, match="data.jsonl:2"):
            read_prompts(path)


@given(st.binary(max_size=300))
def test_any_bytes_are_prompts_or_one_sentence(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "data.jsonl"
    for line in (data, b'{"text": "' + data + b'"}', b'{"messages": ' + data + b"}"):
        path.write_bytes(line)
        try:
            assert read_prompts(path)
        except (FormatError, BadInputError) as error:
            assert error.message


def test_a_long_line_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINE_BYTES", 1000)
    path = tmp_path / "lines.txt"
    path.write_bytes(b"short\n" + b"x" * 5000)
    assert len(read_prompts(path, 1)) == 1
    with pytest.raises(FormatError):
        read_prompts(path)


def test_no_file_and_no_prompts(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        read_prompts(tmp_path / "absent")
    with pytest.raises(MissingFileError):
        read_prompts(tmp_path)
    (tmp_path / "empty.txt").write_text("\n \n", encoding="utf-8")
    with pytest.raises(BadInputError):
        read_prompts(tmp_path / "empty.txt")


def test_a_long_prompt_keeps_what_is_scored(tokenizer: Any) -> None:
    answer = {"role": "assistant", "content": "yes"}
    question = {"role": "user", "content": "word " * 400}
    (sample,) = tokenise([Prompt(messages=(question, answer))], tokenizer)
    assert len(sample.tokens) == LONGEST
    assert tokenizer.decode(sample.targets.tolist()).startswith("yes")
    (long,) = tokenise([Prompt("word " * 400)], tokenizer)
    assert (len(long.tokens), long.first) == (LONGEST, 1)


def test_a_model_without_a_chat_template(tmp_path: Path) -> None:
    folder = tiny_models.make_base(tmp_path / "base", layers=1)
    (folder / "chat_template.jinja").unlink()
    plain = load_tokenizer(folder)
    with pytest.raises(BadInputError, match="prompt 1"):
        tokenise([Prompt(messages=tuple(DIALOGUE))], plain)
    samples = tokenise(built_in(), plain, strict=False)
    assert len(samples) == len(built_in())


TEMPLATES = {
    "refuses": "{{ raise_exception('roles must alternate') }}",
    "is huge": "{{ 'a' * 10 ** 10 }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_that_gives_no_prompt(name: str, tmp_path: Path) -> None:
    folder = tiny_models.make_base(tmp_path / "base", layers=1)
    (folder / "chat_template.jinja").write_text(TEMPLATES[name])
    with pytest.raises(BadInputError, match="prompt 1"):
        tokenise([Prompt(messages=tuple(DIALOGUE))], load_tokenizer(folder))
