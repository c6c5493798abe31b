import json
import logging
from pathlib import Path

import pytest
from fastapi import APIRouter
from fastapi.testclient import TestClient

from tests.workflows.serve.fakes import MP4, FakeBackend, problem, video
from workflows.serve.app import create_app
from workflows.serve.context import Here, Owner
from workflows.serve.data import Data
from workflows.serve.limits import Limits


def test_health(client: TestClient, backend: FakeBackend) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    backend.is_ready = False
    response = client.get("/v2/health/ready")
    problem(response, 503, "not-ready")
    assert response.headers["retry-after"] == "5"
    assert client.get("/v2/health/live").status_code == 200


def test_limits_are_told(client: TestClient) -> None:
    assert Limits.model_validate(client.get("/v1/limits").json()) == Limits()


def test_unknown_routes_and_methods(client: TestClient) -> None:
    problem(client.get("/v1/nothing"), 404, "not-found")
    response = client.get("/v1/localize")
    problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == "POST"
    problem(client.get("/docs"), 404, "not-found")


def test_the_id_of_a_proxy_is_kept(client: TestClient) -> None:
    known = "1d5ef343-8d43-433e-ae99-b053e8df40c7"
    assert client.get("/v1/nothing", headers={"X-Request-ID": known}).json()["request_id"] == known
    assert client.get("/v1/nothing", headers={"X-Request-ID": "<b>"}).json()["request_id"].isalnum()
    assert len(client.get("/v2/health/live").headers["x-request-id"]) == 32


def test_browsers_are_told_what_a_page_may_do(client: TestClient) -> None:
    for path in ("/v2/health/live", "/v1/nothing"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"].split("; ")
        assert {"default-src 'self'", "frame-ancestors 'none'", "object-src 'none'"} <= set(policy)
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"


def test_an_unexpected_error_tells_nothing(
    client: TestClient, backend: FakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    backend.fails = RuntimeError("secret")
    response = client.post("/v1/localize", content=video(0.5), headers=MP4)
    request_id = problem(response, 500, "internal")["request_id"]
    assert "secret" not in response.text
    assert response.headers["x-content-type-options"] == "nosniff"
    assert f"request {request_id} failed" in caplog.text
    assert "secret" in caplog.text
    backend.fails = None
    assert client.post("/v1/localize", content=video(0.5), headers=MP4).status_code == 200


def test_a_line_a_request_and_no_secret_in_it(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ray.serve.balletal"):
        client.get("/v2/health/live")
        client.get("/v1/models/nothing?token=secret", headers={"Authorization": "Bearer secret"})
    (line,) = (record for record in caplog.records if record.name == "ray.serve.balletal")
    assert (line.method, line.route, line.status, line.owner) == ("GET", "/v1/models/{name}", 404, "local")
    assert line.problem == "not-found"
    assert len(line.request) == 32
    assert "secret" not in json.dumps(vars(line), default=str)


def test_metrics(client: TestClient) -> None:
    client.post("/v1/localize", content=video(0.5), headers=MP4)
    client.get("/v1/models/other")
    client.get("/v1/models/unknown")
    client.get("/v1/nothing")
    lines = client.get("/metrics").text.splitlines()
    assert 'balletal_requests_total{method="POST",route="/v1/localize",status="200"} 1.0' in lines
    assert 'balletal_requests_total{method="GET",route="/v1/models/{name}",status="404"} 1.0' in lines
    assert 'balletal_requests_total{method="GET",route="none",status="404"} 1.0' in lines
    assert 'balletal_problems_total{type="not-found"} 2.0' in lines
    assert 'balletal_stage_seconds_sum{stage="features"} 0.02' in lines
    assert 'balletal_stage_seconds_count{stage="receive"} 1.0' in lines
    assert not any("unknown" in line or "nothing" in line for line in lines)


def test_a_body_is_bounded_whatever_the_route_reads(backend: FakeBackend, tmp_path: Path) -> None:
    app = create_app(backend, Data(str(tmp_path)), Limits(max_body_bytes=1000, max_json_bytes=100))
    client = TestClient(app)
    as_json = {"Content-Type": "application/json"}
    for content in (b"[" * 101, iter([b"[" * 60] * 2)):
        problem(client.post("/v2/models/fake/infer", content=content, headers=as_json), 413, "too-large")
    problem(client.post("/v2/models/fake/infer", content=b"[]"), 415, "media-type")
    problem(client.post("/v1/localize", content=b"x" * 1001, headers=MP4), 413, "too-large")
    problem(client.post("/v1/localize", content=b"x" * 1000, headers=MP4), 415, "bad-video")


def test_a_router_has_the_parts_of_the_app(backend: FakeBackend, tmp_path: Path) -> None:
    app, router = create_app(backend, Data(str(tmp_path))), APIRouter()

    @router.get("/parts")
    async def parts(here: Here, owner: Owner) -> dict[str, str]:
        return {"data": here.data.uri, "owner": owner}

    app.include_router(router)
    assert TestClient(app).get("/parts").json() == {"data": str(tmp_path), "owner": "local"}


def test_every_route_says_what_it_answers(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    json.dumps(described, allow_nan=False)
    for path, methods in described["paths"].items():
        for method, route in methods.items():
            statuses = route["responses"].keys()
            assert {"401", "403", "422", "500"} <= statuses, (method, path)
            for status, answer in route["responses"].items():
                kinds = answer.get("content", {}).keys()
                assert status < "400" or kinds == {"application/problem+json"}, (method, path, status)
