"""`fusery materialize`: from adapters to something deployable."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from fusery.registry.charts.text import size
from fusery.registry.parsing import plural
from fusery.storage.errors import typed

from .command import command
from .fuse import BULK, FUSE, KEYS, RARE_FUSE, chosen_adapters, fuse_request, key_values, report, say_speed
from .options import FILE
from .session import Session
from .text import foreign_fact

if TYPE_CHECKING:
    from fusery.registry.bundles.materialize import Materialized

TARGETS = (
    *("model", "archive", "docker", "adapters", "vllm", "k8s"),
    *("ollama", "llamacpp", "gguf", "onnx", "oci", "hub"),
)
_RUN_BY_MLX = ("model", "archive", "docker", "oci", "hub")
"""Targets whose weights mlx reads without conversion."""


class _Target(click.Choice[str]):
    """A target; plugins are loaded for other values and for completion only."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name, or raise an error that lists all."""
        from fusery.registry.bundles.target import target_names

        return value if value in TARGETS else click.Choice(target_names()).convert(value, param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, word: str) -> list[CompletionItem]:
        """Return the names with this prefix."""
        from fusery.registry.bundles.target import target_names

        return [CompletionItem(name) for name in target_names() if name.startswith(word)]


_CARDS = ("model", "archive", "docker", "oci", "hub", "vllm")
_TYPES = click.Choice(["f32", "f16", "bf16", "q8_0"])

TARGET_KEYS: Mapping[str, tuple[Any, tuple[str, ...], str]] = {
    "link": (
        click.BOOL,
        ("model", "docker", "adapters", "vllm", "oci", "hub"),
        "yes: make hard links to the cache instead of copies; do not edit the files",
    ),
    "models": (
        lambda text, *_: (text,),
        ("adapters",),
        "NAME=SPLIT: an additional model name and its split: course_rec=v1:0.9,v2:0.1; repeatable",
    ),
    "base_name": (click.STRING, ("k8s", *_CARDS), "name of the base model, if it differs"),
    "gguf_type": (
        _TYPES,
        ("ollama", "llamacpp", "gguf"),
        "format of the matrices, f32, f16, bf16 or q8_0; default: unchanged",
    ),
    "onnx_type": (click.Choice(["f16", "f32"]), ("onnx",), "number format, f16 or f32; default: f16"),
    "base_image": (
        click.STRING,
        ("docker", "adapters", "k8s"),
        "base image with Python 3.11 to 3.13 and glibc; for k8s: vLLM's image",
    ),
    "location": (
        click.STRING,
        ("k8s",),
        "URL of the adapters for the cluster: s3://, oci:// or pvc://; default: DEST, if a bucket",
    ),
    "card": (
        FILE,
        _CARDS,
        "Jinja template of the model card; default: the setting card, or the built-in one",
    ),
}
"""The keys of `-o` of single targets: type, targets and meaning of each; a plugin's target takes all."""


def _keys_of(target: str) -> list[str]:
    return [key for key, (_, targets, _) in TARGET_KEYS.items() if target in targets or target not in TARGETS]


class _TargetHelp(click.Command):
    """A command whose help lists the keys of `-o` for the target that stands before `--help`."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, and the keys of the target."""
        super().format_options(ctx, formatter)
        if target := ctx.params.get("target"):
            with formatter.section(f"-o KEY=VALUE for --target {target}"):
                formatter.write_dl([(key, TARGET_KEYS[key][2]) for key in _keys_of(target)] or [("none", "")])


@command(
    "materialize",
    rare=f"where task jobs budget {RARE_FUSE}",
    document="bundles.materialize:Materialized | [bundles.bulk:BundledOrNot]",
    kind=_TargetHelp,
    words="[REF...] DEST",
    target=click.Option(
        ["--target"],
        default="model",
        is_eager=True,
        metavar="TARGET",
        type=_Target(TARGETS),
        help="A target above, or a plugin's.  [default: model]",
    ),
    fused="--fused/--unfused: Write the fused model, or the adapters and the base model; default: depends on the target.",
    force=": Replace existing files at DEST.",
    **BULK,
    **{
        **FUSE,
        "details": click.Option(
            ["-o", "details"],
            multiple=True,
            metavar="KEY=VALUE",
            callback=key_values({**KEYS, **TARGET_KEYS}),
            help=f"Options of the target, see `--target T --help`; or {', '.join(KEYS)}; repeatable.",
        ),
    },
)
def materialize(
    session: Session,
    words: tuple[str, ...],
    *,
    target: str = "model",
    fused: bool | None = None,
    force: bool = False,
    **options: Any,
) -> int:
    """Write a deployable bundle of one or more adapters.

    All adapters of a bundle have the same base model. DEST is a new folder, an archive (.tar.zst or .tar.gz), or the URL
    of a store. With --all, {name} in DEST stands for each adapter's name; complete bundles are left as they are.

    Targets:
      model     a folder for mlx-lm and transformers
      archive   the same in one compressed file
      docker    a folder that builds an image with an OpenAI-compatible server
      adapters  a base model, several adapters and an OpenAI-compatible server
      vllm      PEFT adapters or a fused model, and serve.sh for vLLM
      k8s       PEFT adapters, and manifests of KServe (s3://) or of a vLLM
                Deployment (oci://, pvc://)
      ollama    a Modelfile and GGUF files: a fused model, or base and adapter
      llamacpp  GGUF files for llama.cpp: base and adapters, or a fused model
      gguf      a fused model as one GGUF file
      onnx      a fused model for ONNX Runtime
      oci       a fused model as an OCI image layout
      hub       a fused model or a PEFT adapter as a repository;
                DEST hf://OWNER/NAME uploads it

    Examples:
      fusery materialize course_rec@latest my-model
      fusery materialize course_rec#prod my-image --target docker
    """
    from fusery.registry.bundles import Choices

    *references, destination = words
    if not references and not options["every"]:
        raise click.UsageError("Missing argument 'REF...'.\nHint: fusery materialize REF DEST, or --all")
    chosen = chosen_adapters(references[0] if references else None, options)
    choices = {key: options["details"].pop(key) for key in TARGET_KEYS if key in options["details"]}
    if others := sorted(choices.keys() - set(_keys_of(target))):
        raise click.UsageError(
            f"The target {target} takes no -o {others[0]}.\nHint: fusery materialize --target {target} --help"
        )
    if "card" in choices:
        choices["card"] = choices["card"].expanduser().absolute()  # workers may run elsewhere
    settings: dict[str, Any] = {
        "target": target,
        "content": None if fused is None else "fused" if fused else "adapters",
        "force": force,
        "choices": Choices(**choices),
        "request": fuse_request(options),
    }
    bundles = session.registry.bundles
    if chosen is not None:
        with session.counting("writing") as bar:
            done = bundles.materialize_all(destination, **settings, **chosen, reporter=session.reporter(bar))
        return report(session, done, verb="written", adapter=lambda bundle: bundle.adapters[0])
    with session.progress("fusing") as progress:
        bundle = bundles.materialize(references, destination, **settings, reporter=session.reporter(progress))
    session.emit(bundle, names=[bundle.path], human=lambda: _print(session, bundle, target))
    return 0


def _print(session: Session, bundle: Materialized, target: str) -> None:
    files, total = plural(len(bundle.files), "file"), size(sum(file.size for file in bundle.files))
    model = f"{bundle.base} in {bundle.number_format}" if bundle.fused else f"adapters of {bundle.base}"
    session.print(f"{'Already there' if bundle.existed else 'Wrote'}: {bundle.path} ({model})")
    session.print(f"  {target}, {files}, {total}, digest {bundle.digest[:12]}")
    if bundle.label:
        session.print(f"  {bundle.label.replace('(dequantize', '(16bit')}")
    for _, fact in foreign_fact(bundle):
        session.print(f"  {fact}")
    session.warn(bundle)
    if bundle.target in _RUN_BY_MLX:
        command = None if bundle.merge_aware else "add --as 16bit --force"
        say_speed(session, bundle.quantization, command)
    for other in bundle.other_bases:
        session.say(f"Note: {bundle.name} is also fused onto {other}: add --base {other} --force")
    if base := bundle.unfound_base:
        session.say(
            f"Note: the base model {base} is not in the bundle, and a server does not find it by that name;"
            " say where it is when you start one, or now: -o base_name=HUB_ID_OR_FOLDER"
        )
    if hint := _next_step(target, bundle.path, bundle.unfound_base):
        session.say(f"Next: {hint}")


def _next_step(target: str, path: str, unfound_base: str | None) -> str | None:
    if "://" in path:
        return None
    place = typed(path)
    run = f"cd {place} && pip install -r requirements.txt && python server.py"
    steps = {
        "docker": f"docker build -t NAME {place}   (or, without a container: {run})",
        "adapters": f"{run}   (or, as an image: docker build -t NAME {place})",
        "archive": f"tar -xf {place}",
        "vllm": f"{'BASE_MODEL=FOLDER ' if unfound_base else ''}sh {typed(f'{path}/serve.sh')}",
        "model": f"mlx_lm.generate --model {place} --prompt TEXT",
    }
    if target == "llamacpp" and (Path(path) / "serve.sh").is_file():
        return f"sh {typed(f'{path}/serve.sh')}"
    see = f"see {typed(f'{path}/README.md')}"
    return steps.get(target) or (see if target in TARGETS or (Path(path) / "README.md").is_file() else None)
