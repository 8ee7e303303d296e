"""Bundles built as images for real by buildah, run as their user, and asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import containers
import pytest
from bundle_cases import Imaged
from openai import APIConnectionError, NotFoundError, OpenAI
from ports import free_port

from fusery.registry.bundles.image import BuiltImage, build_image, find_engine

pytestmark = [pytest.mark.slow, pytest.mark.timing]

CANARY = "canary-5f0e6c1d"
SECRETS = ("HF_TOKEN", "FUSERY_STORE_OPTIONS", "PIP_INDEX_URL", "AWS_SECRET_ACCESS_KEY", "USER")


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> containers.Builder:
    containers.need_buildah()
    return containers.Builder(tmp_path_factory.mktemp("buildah"))


@pytest.fixture(scope="module")
def base_image(builder: containers.Builder) -> str:
    return builder.make_base()


@pytest.fixture(scope="module")
def packages(base_image: str, imaged: Imaged, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = imaged.write(tmp_path_factory.mktemp("bundle"))
    return containers.wheels(folder / "requirements.txt", tmp_path_factory.mktemp("wheels"))


@pytest.fixture(scope="module")
def image(
    builder: containers.Builder,
    base_image: str,
    packages: Path,
    imaged: Imaged,
    tmp_path_factory: pytest.TempPathFactory,
) -> BuiltImage:
    """The image of a bundle, built as `--build cpu` does among secrets; the Dockerfile is the bundle's own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in SECRETS:
            patch.setenv(name, CANARY)
        folder = imaged.write(tmp_path_factory.mktemp("bundle"), base_image=base_image)
        for name, value in builder.environment(packages).items():
            patch.setenv(name, value)
        patch.setattr(
            "fusery.registry.bundles.image.shutil.which", lambda name: name if name == "buildah" else None
        )
        assert find_engine() == "buildah"
        return build_image("buildah", folder, imaged.source.name, target=imaged.target)


def test_image_has_labels_and_no_secret(
    builder: containers.Builder, image: BuiltImage, imaged: Imaged
) -> None:
    shown = json.loads(builder.run("inspect", "--type", "image", image.name))["Docker"]["config"]
    assert shown["User"] == "10001:10001"
    assert shown["Entrypoint"] == ["python", "/app/server.py"]
    assert shown["Healthcheck"]["Test"] == ["CMD", "python", "/app/server.py", "--health"]
    labels = shown["Labels"]
    assert labels["org.opencontainers.image.title"] == imaged.source.name
    assert labels["org.opencontainers.image.base.name"] == containers.BASE
    assert labels["fusery.base.digest"] == "b" * 64
    if imaged.target == "docker":
        assert labels["fusery.model.digest"] == imaged.source.fused.manifest.digest
    else:
        assert labels["fusery.adapters.names"].split() == [each.name for each in imaged.source.adapters]
    assert CANARY not in json.dumps(shown)
    with builder.container(image.name) as container:
        root = Path(builder.run("mount", container))
        try:
            found = [
                each for name in ("app", "etc", "opt", "tmp", "root") for each in (root / name).rglob("*")
            ]
            files = [path for path in found if path.is_file() and not path.is_symlink()]
            assert len(files) > 1000
            assert not [path for path in files if CANARY.encode() in path.read_bytes()]
        finally:
            builder.run("umount", container)


@contextmanager
def running(builder: containers.Builder, container: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run what the image runs, as the image's user, with nothing to write to but /tmp."""
    entry = ["python", "/app/server.py"]
    with (
        builder.read_only(container, entry, port=port) as command,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        ) as process,
    ):
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def ready(client: OpenAI, process: subprocess.Popen[bytes]) -> set[str]:
    """Wait for a server, and return what it says can be asked for."""
    for _ in range(240):
        if process.poll() is not None:
            assert process.stdout is not None
            raise AssertionError(process.stdout.read().decode(errors="replace")[-3000:])
        try:
            return {model.id for model in client.models.list()}
        except APIConnectionError:
            time.sleep(0.25)
    raise AssertionError("the container did not answer")


def asked(client: OpenAI, model: str) -> str:
    """Return the likelihoods of what a model says first, as text: each model has its own."""
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Hello"}],
        max_tokens=4,
        temperature=0,
        logprobs=True,
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0
    assert answer.choices[0].logprobs is not None
    return str(answer.choices[0].logprobs.content)


def test_container_answers_as_its_user(
    builder: containers.Builder, image: BuiltImage, imaged: Imaged
) -> None:
    port = free_port()
    with builder.container(image.name) as container, running(builder, container, port) as process:
        client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="-", max_retries=0, timeout=120)
        models, routes = [imaged.source.name], []
        if imaged.target == "adapters":
            models = ["org/Tiny-1M", *(adapter.name for adapter in imaged.source.adapters)]
            routes = list(imaged.source.routes)
        assert ready(client, process) == {*models, *routes}
        answers = [asked(client, model) for model in models]
        assert len(set(answers)) == len(models), "the base and each adapter have answers of their own"
        assert all(asked(client, route) in answers for route in routes)
        with pytest.raises(NotFoundError):
            asked(client, "another")

        def inside(*words: str) -> subprocess.CompletedProcess[str]:
            command = builder.inside(container, [*words], user="10001:10001", port=port)
            return subprocess.run(command, check=False, capture_output=True, text=True)

        assert inside("id", "-u").stdout.strip() == "10001"
        assert inside("python", "/app/server.py", "--health").returncode == 0
        # What is there belongs to others: the user may change neither the server nor the model.
        touch = "touch /app/serving/x /usr/x /opt/venv/x 2>/dev/null; ls /usr/x /opt/venv/x 2>/dev/null"
        assert inside("sh", "-c", touch).stdout == ""
