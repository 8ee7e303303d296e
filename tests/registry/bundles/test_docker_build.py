"""The `docker` bundle built for real by buildah, run as its user, and asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import containers
import pytest
from bundle_cases import make_bundle
from openai import APIConnectionError, OpenAI
from ports import free_port

from fusery.registry.bundles import BundleSource
from fusery.registry.bundles.image import BuiltImage, build_image, find_engine

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> containers.Builder:
    containers.need_buildah()
    return containers.Builder(tmp_path_factory.mktemp("buildah"))


@pytest.fixture(scope="module")
def image(
    builder: containers.Builder, plain_source: BundleSource, tmp_path_factory: pytest.TempPathFactory
) -> BuiltImage:
    """The image of a bundle, built as `--build cpu` does; the Dockerfile is the bundle's own."""
    folder = tmp_path_factory.mktemp("bundle")
    make_bundle(plain_source, "docker", folder, base_image=builder.make_base())
    packages = containers.wheels(folder / "requirements.txt", tmp_path_factory.mktemp("wheels"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in builder.environment(packages).items():
            patch.setenv(name, value)
        patch.setattr(
            "fusery.registry.bundles.image.shutil.which", lambda name: name if name == "buildah" else None
        )
        assert find_engine() == "buildah"
        return build_image("buildah", folder, plain_source.name)


def test_the_image_says_what_it_is(
    builder: containers.Builder, image: BuiltImage, plain_source: BundleSource
) -> None:
    shown = json.loads(builder.run("inspect", "--type", "image", image.name))["Docker"]["config"]
    assert shown["User"] == "10001:10001"
    assert shown["Entrypoint"] == ["python", "/app/server.py"]
    assert shown["Healthcheck"]["Test"] == ["CMD", "python", "/app/server.py", "--health"]
    assert shown["Labels"]["org.opencontainers.image.title"] == plain_source.name
    assert shown["Labels"]["org.opencontainers.image.base.name"] == containers.BASE
    assert shown["Labels"]["fusery.model.digest"] == plain_source.fused.manifest.digest


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


def asked(client: OpenAI, model: str, process: subprocess.Popen[bytes]) -> str:
    for _ in range(240):
        if process.poll() is not None:
            assert process.stdout is not None
            raise AssertionError(process.stdout.read().decode(errors="replace")[-3000:])
        try:
            answer = client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": "Hello"}], max_tokens=4
            )
        except APIConnectionError:
            time.sleep(0.25)
            continue
        assert answer.usage is not None
        assert answer.usage.completion_tokens > 0
        return answer.model
    raise AssertionError("the container did not answer")


def test_the_container_answers_as_nobody_in_particular(
    builder: containers.Builder, image: BuiltImage, plain_source: BundleSource
) -> None:
    port = free_port()
    with builder.container(image.name) as container, running(builder, container, port) as process:
        client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="-", max_retries=0, timeout=120)
        assert asked(client, plain_source.name, process) == plain_source.name
        inside = builder.inside(container, ["id", "-u"], user="10001:10001", port=port)
        assert subprocess.run(inside, check=True, capture_output=True, text=True).stdout.strip() == "10001"
        health = builder.inside(
            container, ["python", "/app/server.py", "--health"], user="10001:10001", port=port
        )
        assert subprocess.run(health, check=False, capture_output=True).returncode == 0
        # What is there belongs to others: the user may change neither the server nor the model.
        touch = [
            "sh",
            "-c",
            "touch /app/serving/x /usr/x /opt/venv/x 2>/dev/null; ls /usr/x /opt/venv/x 2>/dev/null",
        ]
        found = subprocess.run(
            builder.inside(container, touch, user="10001:10001", port=port), check=False, capture_output=True
        )
        assert found.stdout == b""
