import re

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from workflows.serve import page
from workflows.serve.limits import Limits
from workflows.serve.metrics import Metrics
from workflows.serve.observe import Observed
from workflows.serve.problems import install_problems


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    install_problems(app)
    app.add_middleware(Observed, limits=Limits(), metrics=Metrics())
    app.include_router(page.router)
    return TestClient(app)


def test_every_file_that_the_page_names_is_there(client: TestClient) -> None:
    seen, left = set(), ["/"]
    while left:
        path = left.pop()
        seen.add(path)
        response = client.get(path)
        assert response.status_code == 200, path
        named = re.findall(r'(?:src|href)="(/static/[^"]+)"', response.text) if path == "/" else []
        named += ["/static/" + name for name in re.findall(r'from "\./([^"]+)"', response.text)]
        left += [name for name in named if name not in seen and name not in left]
    assert {"/static/page.css", "/static/app.js", "/static/upload.js", "/static/timeline.js"} < seen


@pytest.mark.parametrize(
    ("path", "media_type"),
    [("/", "text/html"), ("/static/app.js", "text/javascript"), ("/static/icon.svg", "image/svg+xml")],
)
def test_files_have_a_type_and_an_etag(client: TestClient, path: str, media_type: str) -> None:
    response = client.get(path)
    assert response.headers["content-type"].split(";")[0] == media_type
    assert "unsafe" not in response.headers["content-security-policy"]
    assert response.headers["cache-control"] == "no-cache"
    etag = response.headers["etag"]
    assert client.get(path, headers={"If-None-Match": f'"other", W/{etag}'}).status_code == 304
    assert client.get(path, headers={"If-None-Match": '"other"'}).content == response.content


@pytest.mark.parametrize("name", ["nothing.js", "..%2fpage.py", "%2e%2e/page.py", "app.js%00"])
def test_no_other_file_is_given(client: TestClient, name: str) -> None:
    response = client.get(f"/static/{name}")
    assert response.status_code == 404
    assert response.json()["type"] == "urn:balletal:not-found"


def test_nothing_needs_an_inline_script_or_style(client: TestClient) -> None:
    html = client.get("/").text
    assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", html) == []
