import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.routing import Route

from balletal.client import Client
from balletal.errors import InputError
from tests.workflows.serve.whole import TOKEN
from workflows.app.command import application, main, video


@pytest.fixture
def app(asking: None) -> TestClient:
    return TestClient(Starlette(routes=[Route("/videos/{video_id}", video)]))


def test_a_video_of_the_service_comes_by_ranges_to_our_own_page(app: TestClient, client: Client, clips: Path) -> None:
    content, video_id = (clips / "a.mp4").read_bytes(), client.upload(clips / "a.mp4").video_id
    whole = app.get(f"/videos/{video_id}")
    assert (whole.status_code, whole.content) == (200, content)
    assert whole.headers["content-type"] == "video/mp4"
    assert whole.headers["cross-origin-resource-policy"] == "same-origin"
    part = app.get(f"/videos/{video_id}", headers={"Range": "bytes=100-299"})
    assert (part.status_code, part.content) == (206, content[100:300])
    assert part.headers["content-range"] == f"bytes 100-299/{len(content)}"
    assert app.get(f"/videos/{video_id}", headers={"Range": "bytes=999999999-"}).status_code == 416
    assert TOKEN not in repr([*whole.headers.items(), *part.headers.items()])


@pytest.mark.parametrize("name", ["0" * 24, "..%2f..%2fv1%2fmodels", "a.b"])
def test_nothing_else_of_the_service_is_passed_on(app: TestClient, name: str) -> None:
    answer = app.get(f"/videos/{name}")
    assert (answer.status_code, "models" in answer.text) == (404, False)


def test_a_service_that_is_away_is_a_502(app: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BALLETAL_URL", "http://127.0.0.1:9")
    assert app.get(f"/videos/{'0' * 24}").status_code == 502


@pytest.mark.usefixtures("streamlit")
def test_other_names_of_this_machine_are_refused(asking: None) -> None:
    app = TestClient(application(), base_url="http://evil.example")
    assert app.get(f"/videos/{'0' * 24}").status_code == 400


def test_a_missing_streamlit_is_told(balletal: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "streamlit", None)
    with pytest.raises(InputError, match=r"pip install 'balletal\[app\]'"):
        balletal("app")


@pytest.mark.usefixtures("streamlit")
def test_what_is_wrong_is_told_before_anything_starts() -> None:
    with pytest.raises(InputError, match="the service's URL"):
        main(url="127.0.0.1:8000")
