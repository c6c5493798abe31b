"""The Dockerfile, linted, and held against the versions of the project."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from tests.cluster.checks import CLUSTER, check_image, pinned
from tests.conftest import ROOT

TEXT = (CLUSTER / "Dockerfile").read_text()


@pytest.fixture(scope="module")
def hadolint(require: Callable[[str], NoReturn]) -> str:
    beside = Path(sys.executable).parent / "hadolint"
    return str(beside) if beside.is_file() else shutil.which("hadolint") or require("no hadolint")


def _lint(hadolint: str, text: str) -> list[str]:
    """Codes of what hadolint has to say."""
    ran = subprocess.run([hadolint, "--no-color", "-"], input=text, capture_output=True, text=True, check=False)
    return re.findall(r"\b(?:DL|SC)\d{4}\b", ran.stdout)


def test_the_dockerfile_is_clean(hadolint: str) -> None:
    assert _lint(hadolint, TEXT) == []


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("USER 1000:1000", "USER root", "DL3002"),
        ("--no-install-recommends ", "", "DL3015"),
        (" \\\n    && rm -rf /var/lib/apt/lists/*", "", "DL3009"),
        ("WORKDIR /home/ray", "WORKDIR home", "DL3000"),
    ],
)
def test_a_mistake_is_linted(hadolint: str, old: str, new: str, code: str) -> None:
    assert old in TEXT
    assert code in _lint(hadolint, TEXT.replace(old, new))


def check_dockerfile(text: str) -> None:
    """What the manifests and this project's versions ask of the image."""
    assert re.findall(r"(?m)^ARG BASE=(\S+)$", text) == [f"python:{_python(text)}-slim-bookworm"]
    assert re.search(r"(?m)^USER 1000:1000$", text), "KubeRay's volumes are user 1000's"
    assert re.search(r"(?m)^HEALTHCHECK ", text)
    assert f'image.version="{pinned()["balletal"]}"' in text
    for image in re.findall(r"-t (\S+)", text):
        check_image(image, "docker build")
    hosts = set(re.findall(r"https?://([\w.:-]+)", text))
    assert hosts == {"download.pytorch.org", "127.0.0.1:8000"}, hosts
    for line in re.findall(r"pip install .*", text):
        assert "--constraint constraints.txt" in line, line


def _python(text: str) -> str:
    found = re.search(r"python:(3\.11\.\d+)-", text)
    assert found, "the base is no release of Python 3.11"
    return found[1]


def test_the_dockerfile_fits_the_project() -> None:
    check_dockerfile(TEXT)
    copied = {name for line in re.findall(r"(?m)^COPY (?!--)(.*) \S+$", TEXT) for name in line.split()}
    ignored = (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines()
    sent = {line[1:] for line in ignored if line.startswith("!")}
    assert copied == sent
    assert all((ROOT / name).exists() for name in sent)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("python:3.11.14-slim", "python:3.11-slim"),
        ("USER 1000:1000", "USER 1001:1001"),
        ("ray2.60.0-cuda", "ray2.59.0-cuda"),
        ("pip install --constraint constraints.txt .", "pip install ."),
        ("https://download.pytorch.org/whl/cpu", "https://example.com/simple"),
    ],
)
def test_a_mistake_is_found(old: str, new: str) -> None:
    assert old in TEXT
    with pytest.raises(AssertionError):
        check_dockerfile(TEXT.replace(old, new))
