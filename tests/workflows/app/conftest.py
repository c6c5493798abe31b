"""A service that the app asks, and a video there whose steps are found."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from balletal.client import Client
from tests.workflows.serve.whole import TOKEN, Whole


@pytest.fixture(scope="session")
def streamlit(require: Callable[[str], NoReturn]) -> None:
    try:
        import streamlit  # noqa: F401
    except ImportError:
        require("Streamlit is not installed")


@pytest.fixture
def client(whole: Whole) -> Iterator[Client]:
    with Client(whole.url, TOKEN) as connected:
        for video in list(connected.videos()):
            connected.delete_video(video.video_id)
        yield connected


@pytest.fixture
def asking(whole: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment that `balletal app` makes."""
    monkeypatch.setenv("BALLETAL_URL", whole.url)
    monkeypatch.setenv("BALLETAL_TOKEN", TOKEN)


@pytest.fixture
def held(whole: Whole) -> Iterator[threading.Event]:
    """Jobs do not end before it is set."""
    hold = whole.backend.runner.hold
    hold.clear()
    yield hold
    hold.set()


@pytest.fixture
def answered(client: Client, clips: Path) -> dict[str, str]:
    """What the address of the app's page says of a video whose steps two models have found."""
    video = client.upload(clips / "a.mp4")
    job = client.jobs.submit([{"video_id": video.video_id}], models=["fake@1", "other@1"])
    return {"video": video.video_id, "job": client.jobs.wait(job.id).id}
