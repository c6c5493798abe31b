from collections.abc import Iterator
from pathlib import Path

import pytest

from balletal.client import Client
from tests.workflows.serve.fakes import video
from tests.workflows.serve.whole import TOKEN, Whole, whole_service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """A service that localizes at once in up to 2 s of video, and takes pieces of 1000 bytes."""
    limits = {"max_localize_s": 2.0, "max_part_of_s": 10.0, "max_chunk_bytes": 1000, "max_body_bytes": 100_000}
    with whole_service(tmp_path_factory.mktemp("service"), token=TOKEN, **limits) as running:
        yield running


@pytest.fixture
def client(service: Whole) -> Iterator[Client]:
    with Client(service.url, TOKEN) as connected:
        yield connected


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    path.write_bytes(video(2.0))
    return path
