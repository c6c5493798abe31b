"""The page without a browser, against the service's app over a real connection."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from balletal.client import Client
from workflows.app.command import PAGE

pytestmark = pytest.mark.usefixtures("streamlit")


@pytest.fixture
def open_page(asking: None) -> Callable[..., Any]:
    """The page as it is at first, at an address."""

    def run(**address: str) -> Any:
        from streamlit.testing.v1 import AppTest

        page = AppTest.from_file(str(PAGE), default_timeout=300)
        page.query_params.update(address)
        return page.run()

    return run


def player(page: Any) -> dict[str, Any]:
    """What the player shows."""
    (found,) = page.get("bidi_component")
    return json.loads(found.proto.json)


def test_from_a_file_to_its_steps(open_page: Callable[..., Any], client: Client, clips: Path) -> None:
    page = open_page()
    assert page.button[0].disabled
    assert [*page.radio] == []
    page.file_uploader[0].upload("c*ss.mp4", (clips / "a.mp4").read_bytes(), "video/mp4").run()
    assert page.multiselect[0].value == ["other@1"]
    page.multiselect[0].set_value(["fake@1", "other@1"])
    page.button[0].click().run()
    (sent,) = client.videos()
    assert sent.name == "c*ss.mp4"
    assert page.header[0].value == r"c\*ss\.mp4"
    shown = player(page)
    assert shown["src"] == f"/videos/{sent.video_id}"
    assert shown["duration"] == pytest.approx(2.0)
    assert [track["name"] for track in shown["tracks"]] == ["fake", "other"]
    first = {"label": "A", "start": 0.0, "end": 0.5, "score": 0.5}
    assert [track["segments"] for track in shown["tracks"]] == [[first, first | {"start": 1.0, "end": 2.0}]] * 2
    rows = page.dataframe[0].value
    assert rows["label"].tolist() == ["A (Backwards)", "A", "A", "A"]
    assert rows["model"].tolist() == ["fake", "other"] * 2
    page.button[0].click().run()  # the file is there: it is not sent again
    assert len(list(client.videos())) == 1
    assert [*page.exception, *page.error] == []


def test_the_address_keeps_the_answer_and_the_slider_leaves_out(
    open_page: Callable[..., Any], answered: dict[str, str]
) -> None:
    page = open_page(**answered)
    assert page.radio[0].options == ["one from this computer", "one that was sent before"]
    page.radio[0].set_value("one that was sent before").run()
    assert page.selectbox[0].options[0].startswith("a.mp4 · 0:02 · ")
    assert page.slider[0].value == 30
    page.slider[0].set_value(60).run()
    assert [track["segments"] for track in player(page)["tracks"]] == [[], []]
    assert player(page)["labels"] == ["A"]
    assert page.dataframe[0].value.empty


def test_a_job_that_was_stopped_says_so(
    open_page: Callable[..., Any], client: Client, clips: Path, held: threading.Event
) -> None:
    video_id = client.upload(clips / "a.mp4").video_id
    job = client.jobs.cancel(client.jobs.submit([{"video_id": video_id}]).id)
    assert open_page(video=video_id, job=job.id).error[0].value.startswith("Stopped.")


def test_problems_are_told_in_words(
    open_page: Callable[..., Any], clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = open_page(video="0" * 24, job="0" * 24)
    assert page.error[0].value.startswith("404 ")
    assert "expected an id" in open_page(video="../x", job="0" * 24).error[0].value
    page = open_page()
    page.file_uploader[0].upload("no.mp4", b"no video", "video/mp4").run()
    page.button[0].click().run()
    assert page.error[0].value
    monkeypatch.setenv("BALLETAL_TOKEN", "another-token-0123456789")
    assert "`--token-file`" in open_page().error[0].value
    monkeypatch.setenv("BALLETAL_URL", "http://127.0.0.1:9")
    assert "does not answer" in open_page().error[0].value
    assert [*page.exception] == []
