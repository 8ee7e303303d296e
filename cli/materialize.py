"""`fusery materialize`: from adapters to something deployable."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusery.registry.charts.text import size
from fusery.registry.parsing import plural
from fusery.storage.shell import typed

from .bulk import bulk_options, choice, counting, report
from .cpu_cost import say_cost_of_bundle
from .fuse import make_request, request_options
from .plugged import PluggedChoice
from .session import LocalPath, Session, command
from .text import foreign_fact

if TYPE_CHECKING:
    from fusery.registry.bundles import Content
    from fusery.registry.bundles.built import BuiltImage
    from fusery.registry.bundles.choices import GgufType, OnnxType
    from fusery.registry.bundles.materialize import Materialized

BUILDS = ("cpu", "nvidia")
GGUF_TYPES = ("f32", "f16", "bf16", "q8_0")
ONNX_TYPES = ("f16", "f32")
TARGETS = (
    "model",
    "archive",
    "docker",
    "adapters",
    "vllm",
    "k8s",
    "lorax",
    "ollama",
    "llamacpp",
    "gguf",
    "onnx",
    "oci",
    "hub",
)


def _target_names() -> list[str]:
    from fusery.registry.bundles import target_names

    return target_names()


@command("materialize")
@click.argument("words", metavar="[REF...] DEST", nargs=-1, required=True)
@bulk_options
@click.option(
    "--target",
    type=PluggedChoice(TARGETS, _target_names),
    default="model",
    metavar="TARGET",
    help="What to write: one of the above, or a plugin's; default: model.",
)
@click.option(
    "--fused/--unfused",
    default=None,
    help="One model with the adapter in its weights, or the adapters beside their base; default: what suits the target.",
)
@click.option("--force", is_flag=True, help="Replace what is at DEST.")
@click.option(
    "--link", is_flag=True, help="Hard links into the cache instead of copies; do not edit the files."
)
@click.option(
    "--model",
    "models",
    metavar="NAME=SPLIT",
    multiple=True,
    help="For adapters: a further name and what it leads to, with weights: course_rec=v1:0.9,v2:0.1.",
)
@click.option(
    "--base-name",
    metavar="NAME",
    help="For vllm, k8s, lorax and model cards: what the base is called there, if not as it is called here.",
)
@click.option(
    "--gguf-type",
    type=click.Choice(GGUF_TYPES),
    help="For GGUF files: the format of the matrices; default: what they have.",
)
@click.option(
    "--onnx-type",
    type=click.Choice(ONNX_TYPES),
    help="For ONNX: the format of the numbers; default: f16.",
)
@click.option(
    "--base-image",
    metavar="IMAGE",
    help="For docker and adapters: what the image is built on, Python 3.11 to 3.13 on glibc; for k8s: vLLM's image.",
)
@click.option(
    "--location",
    metavar="URL",
    help="For k8s: where the cluster finds the adapters: s3://, gs://, oci:// or pvc://; default: DEST, if a bucket.",
)
@click.option(
    "--build",
    type=click.Choice(BUILDS),
    help="For docker and adapters: build the image now, by docker, podman or buildah, whichever is there.",
)
@click.option(
    "--card",
    type=LocalPath(path_type=Path),
    metavar="FILE",
    help="A Jinja template for the model card, run in a sandbox; default: the setting card, or ours.",
)
@request_options
def materialize_command(
    session: Session,
    words: tuple[str, ...],
    target: str,
    fused: bool | None,
    force: bool,
    link: bool,
    models: tuple[str, ...],
    base_name: str | None,
    gguf_type: GgufType | None,
    onnx_type: OnnxType | None,
    base_image: str | None,
    location: str | None,
    build: str | None,
    card: Path | None,
    **options: Any,
) -> int:
    """Write a deployable bundle of one adapter, or of several.

    Several adapters of one bundle stand on one base.  DEST is a folder that does not exist yet, the file of an archive
    (.tar.zst or .tar.gz), or a URL as a store can have.  With --all it has {name} in it, which becomes each adapter's
    name; bundles that stand there already, as recorded, are left as they are.

    \b
    model     a folder for mlx-lm and transformers
    archive   the same in one compressed file
    docker    a folder that builds an image with an OpenAI-compatible server
    adapters  one base, several adapters, a server that chooses for each request;
              in its folder or as an image
    vllm      adapters in PEFT's form, or a fused model, and how vLLM is started
    k8s       adapters in PEFT's form, and manifests for KServe, the vLLM
              production stack, AIBrix and llm-d
    lorax     adapters in PEFT's form, with factors in every layer, for LoRAX
    ollama    a Modelfile and GGUF files: a fused model, or base and adapter
    llamacpp  GGUF files for llama.cpp: the base and adapters, or a fused model
    gguf      a fused model as one GGUF file
    onnx      a fused model for ONNX Runtime
    oci       a fused model as an OCI image layout;
              DEST oci://REGISTRY/REPOSITORY:TAG pushes it
    hub       a fused model, or an adapter in PEFT's form, as a repository;
              DEST hf://OWNER/NAME uploads it
    """  # noqa: D301 (click wants the character, not a backslash)
    from fusery.registry.bundles import Choices

    *references, destination = words
    chosen = choice(options, references[0] if references else None)
    request = make_request(options)
    choices = Choices(
        link=link,
        models=models,
        base_name=base_name,
        gguf_type=gguf_type,
        onnx_type=onnx_type,
        base_image=base_image,
        location=location,
        card=card and card.expanduser().absolute(),  # workers may run elsewhere
    )
    content: Content | None = None if fused is None else "fused" if fused else "adapters"
    engine = _engine(target, destination, bulk=chosen is not None) if build else None
    if chosen is not None:
        with counting(session, "writing") as told:
            done = session.registry.bundles.materialize_all(
                destination,
                request,
                target=target,
                content=content,
                force=force,
                choices=choices,
                **chosen,
                reporter=session.reporter(told),
            )
        return report(session, done, verb="written", adapter=lambda bundle: bundle.adapters[0])
    with session.progress("fusing") as progress:
        bundle = session.registry.bundles.materialize(
            references,
            destination,
            target=target,
            request=request,
            content=content,
            choices=choices,
            force=force,
            reporter=session.reporter(progress),
        )
    if engine:
        image = _built(session, engine, bundle, build)
        bundle = replace(bundle, image=image)

    def human() -> None:
        total = sum(file.size for file in bundle.files)
        number = plural(len(bundle.files), "file")
        session.print(f"{'Already there' if bundle.existed else 'Wrote'}: {bundle.path}")
        session.print(f"  {target}, {number}, {size(total)}, digest {bundle.digest[:12]}")
        if bundle.label:
            session.print(f"  {bundle.label}")
        for _, said in foreign_fact(bundle):
            session.print(f"  {said}")
        session.warn(bundle)
        say_cost_of_bundle(session, bundle)
        if base := bundle.unfound_base:
            session.say(
                f"Note: the base model {base} is not in the bundle, and a server does not find it by that name;"
                " say where it is when you start one, or now: --base-name HUB_ID_OR_FOLDER"
            )
        if bundle.image is not None:
            session.print(f"  image {bundle.image.name}, in the store of {bundle.image.engine}")
        elif hint := _next_step(target, bundle.path, bundle.unfound_base):
            session.say(f"Next: {hint}")

    session.emit(bundle, names=[bundle.path], human=human)
    return 0


def _engine(target: str, destination: str, *, bulk: bool) -> str:
    """Return the engine that will build the image; whatever stands in the way is said before anything is computed."""
    from fusery.registry.bundles.image import find_engine
    from fusery.registry.bundles.image_files import REPOSITORIES
    from fusery.registry.errors import BadInputError

    if target not in REPOSITORIES or "://" in destination or bulk:
        raise BadInputError(
            f"only an image of one bundle for {' or '.join(REPOSITORIES)} in a folder here can be built",
            hint="--target docker --build cpu",
        )
    return find_engine()


def _built(session: Session, engine: str, bundle: Materialized, build: str | None) -> BuiltImage:
    from fusery.registry.bundles.image import build_image

    session.say(f"building the image with {engine}")
    folder, nvidia = Path(bundle.path), build == "nvidia"
    return build_image(engine, folder, bundle.name, target=bundle.target, nvidia=nvidia, say=session.say)


def _next_step(target: str, path: str, unfound_base: str | None) -> str | None:
    if "://" in path:
        return None
    there = typed(path)
    run = f"cd {there} && pip install -r requirements.txt && python server.py"
    if target == "docker":
        return f"docker build -t NAME {there}   (or, without a container: {run})"
    if target == "adapters":
        return f"{run}   (or, as an image: docker build -t NAME {there})"
    if target == "archive":
        return f"tar -xf {there}"
    if target == "vllm":
        return f"{'BASE_MODEL=FOLDER ' if unfound_base else ''}sh {typed(f'{path}/serve.sh')}"
    if target == "llamacpp" and (Path(path) / "serve.sh").is_file():
        return f"sh {typed(f'{path}/serve.sh')}"
    if target in ("k8s", "lorax", "ollama", "llamacpp", "gguf", "onnx", "oci", "hub"):
        return f"see {typed(f'{path}/README.md')}"
    if target not in TARGETS:
        return f"see {typed(f'{path}/README.md')}" if (Path(path) / "README.md").is_file() else None
    return f"mlx_lm.generate --model {there} --prompt TEXT"
