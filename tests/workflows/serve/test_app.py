import io
import json
from pathlib import Path

import av
import jsonschema
import numpy as np
import pytest
from fastapi.testclient import TestClient

import schemas
from balletal.errors import VideoError
from balletal.segments import segment_table
from balletal.video.probe import VideoInfo
from workflows.serve.app import Limits, create_app
from workflows.serve.backend import Answer, Model

MP4 = {"Content-Type": "video/mp4"}


class FakeBackend:
    """Answers two steps at fixed shares of the video, and remembers what it was asked."""

    def __init__(self) -> None:
        self.is_ready = True
        self.fails: Exception | None = None
        self.asked: list[tuple[float, int | None]] = []
        self.paths: list[Path] = []
        self.tags: list[list[str]] | None = None

    async def ready(self) -> bool:
        return self.is_ready

    async def model(self) -> Model:
        return Model("fake", "0" * 64)

    async def localize(self, video: Path, info: VideoInfo, *, min_score: float, top_k: int | None) -> Answer:
        assert video.stat().st_size > 0
        self.paths.append(video)
        self.asked.append((min_score, top_k))
        if self.fails:
            raise self.fails
        d = info.duration
        found = segment_table("v", [0.1 * d, 0.5 * d], [0.3 * d, d], ["Pirouette", "Courus"], score=[0.9, 0.4])
        return Answer(found if self.tags is None else found.assign(tags=self.tags))


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def client(backend: FakeBackend) -> TestClient:
    limits = Limits(max_bytes=1 << 20, max_seconds=2.0)
    return TestClient(create_app(backend, limits), raise_server_exceptions=False)


def video(seconds: float, codec: str = "libx264", fps: int = 25, form: str = "mp4") -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(round(seconds * fps)):
            picture = np.full((48, 64, 3), i % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def problem(response, status: int, urn: str) -> dict:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["type"] == f"urn:balletal:{urn}"
    assert body["status"] == status
    assert response.headers.get("x-request-id", body["request_id"]) == body["request_id"]
    assert len(body["request_id"]) == 32
    assert "/tmp" not in response.text
    assert "Traceback" not in response.text
    return body


def test_health(client: TestClient, backend: FakeBackend) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    backend.is_ready = False
    problem(client.get("/v2/health/ready"), 503, "not-ready")
    assert client.get("/v2/health/live").status_code == 200


def test_a_video_gives_a_result(client: TestClient, backend: FakeBackend) -> None:
    response = client.post("/v1/localize?min_score=0.25&top_k=7", content=video(2.0), headers=MP4)
    assert response.status_code == 200, response.text
    result = response.json()
    jsonschema.Draft202012Validator(schemas.json_schema("result")).validate(result)
    assert result["model"] == {"name": "fake", "digest": "0" * 64}
    assert result["video"]["duration"] == pytest.approx(2.0)
    assert (result["video"]["frames"], result["video"]["width"], result["video"]["codec"]) == (50, 64, "h264")
    assert [(s["label"], s["start_frame"], s["end_frame"]) for s in result["segments"]] == [
        ("Pirouette", 5, 15),
        ("Courus", 25, 50),
    ]
    assert backend.asked == [(0.25, 7)]
    assert not backend.paths[0].exists()


def test_tags_are_told_where_the_model_tells_them(client: TestClient, backend: FakeBackend) -> None:
    backend.tags = [["Backwards"], []]
    result = client.post("/v1/localize", content=video(1.0), headers=MP4).json()
    jsonschema.Draft202012Validator(schemas.json_schema("result")).validate(result)
    assert [segment["tags"] for segment in result["segments"]] == [["Backwards"], []]
    backend.tags = None
    result = client.post("/v1/localize", content=video(1.0), headers=MP4).json()
    assert not any("tags" in segment for segment in result["segments"])


def test_octet_stream_and_a_chunked_body_are_fine(client: TestClient) -> None:
    data = video(1.0)
    chunks = (data[i : i + 1000] for i in range(0, len(data), 1000))
    response = client.post("/v1/localize", content=chunks, headers={"Content-Type": "application/octet-stream"})
    assert response.status_code == 200, response.text


def test_a_long_video_is_told_where_to_go(client: TestClient, backend: FakeBackend) -> None:
    body = problem(client.post("/v1/localize", content=video(3.0), headers=MP4), 422, "use-async")
    assert body["duration"] == pytest.approx(3.0)
    assert body["max_seconds"] == 2.0
    assert "balletal score" in body["detail"]
    assert not backend.asked


@pytest.mark.parametrize("declared", [True, False])
def test_a_large_body_is_refused(client: TestClient, backend: FakeBackend, declared: bool) -> None:
    data = bytes((1 << 20) + 1)
    body = problem(
        client.post("/v1/localize", content=data if declared else iter([data]), headers=MP4), 413, "too-large"
    )
    assert body["max_bytes"] == 1 << 20
    assert not backend.paths


@pytest.mark.parametrize("media_type", [None, "application/x-www-form-urlencoded", "multipart/form-data", "text/plain"])
def test_forms_of_other_sites_do_not_pass(client: TestClient, media_type: str | None) -> None:
    headers = {"Content-Type": media_type} if media_type else {}
    problem(client.post("/v1/localize", content=video(1.0), headers=headers), 415, "media-type")


@pytest.mark.parametrize(
    ("data", "status", "kind"),
    [
        (b"", 422, "empty"),
        (b"a text is no video, though FFmpeg can draw one\n" * 50, 415, "not-a-video"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", 415, "not-a-video"),
        (video(1.0)[:700], 422, "truncated"),
    ],
)
def test_what_is_no_video_is_named(client: TestClient, data: bytes, status: int, kind: str) -> None:
    body = problem(client.post("/v1/localize", content=data, headers=MP4), status, "bad-video")
    assert body["kind"] == kind


def test_an_error_while_decoding_is_the_clients(client: TestClient, backend: FakeBackend) -> None:
    backend.fails = VideoError("/tmp/secret/upload", "corrupt", expected="pictures", found="none in /tmp/secret/upload")
    body = problem(client.post("/v1/localize", content=video(1.0), headers=MP4), 422, "bad-video")
    assert body["detail"] == "expected pictures, found none in the upload"


def test_an_unexpected_error_tells_nothing(client: TestClient, backend: FakeBackend) -> None:
    backend.fails = RuntimeError("secret")
    response = client.post("/v1/localize", content=video(1.0), headers=MP4)
    problem(response, 500, "internal")
    assert "secret" not in response.text
    backend.fails = None
    assert client.post("/v1/localize", content=video(1.0), headers=MP4).status_code == 200


@pytest.mark.parametrize("query", ["min_score=2", "min_score=nan", "top_k=0", "top_k=many"])
def test_parameters_out_of_range(client: TestClient, query: str) -> None:
    body = problem(client.post(f"/v1/localize?{query}", content=b"x", headers=MP4), 422, "bad-parameters")
    assert body["errors"][0]["parameter"] == query.split("=")[0]


def test_unknown_routes_and_methods(client: TestClient) -> None:
    problem(client.get("/v1/nothing"), 404, "not-found")
    response = client.get("/v1/localize")
    problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == "POST"


def test_the_id_of_a_proxy_is_kept(client: TestClient) -> None:
    known = "1d5ef343-8d43-433e-ae99-b053e8df40c7"
    assert client.get("/v1/nothing", headers={"X-Request-ID": known}).json()["request_id"] == known
    assert client.get("/v1/nothing", headers={"X-Request-ID": "<b>"}).json()["request_id"].isalnum()
    assert len(client.get("/v2/health/live").headers["x-request-id"]) == 32


def test_only_so_many_at_once(backend: FakeBackend) -> None:
    client = TestClient(create_app(backend, Limits(at_once=0)))
    response = client.post("/v1/localize", content=video(1.0), headers=MP4)
    problem(response, 503, "busy")
    assert response.headers["retry-after"] == "5"


def test_a_variable_frame_rate_is_a_warning(client: TestClient) -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for pts in (0, 1, 2, 10, 11, 30, 31, 40):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            frame.pts = pts
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    result = client.post("/v1/localize", content=file.getvalue(), headers=MP4).json()
    assert result["video"]["vfr"] is True
    assert "approximate" in result["warnings"][0]
    for segment in result["segments"]:
        assert 0 <= segment["start_frame"] < segment["end_frame"] <= 8


def test_the_description_carries_the_schema(client: TestClient) -> None:
    described = client.get("/openapi.json").json()["paths"]["/v1/localize"]["post"]
    assert described["responses"]["200"]["content"]["application/json"]["schema"] == schemas.json_schema("result")
    assert "application/octet-stream" in described["requestBody"]["content"]
    assert client.get("/docs").status_code == 404
    json.dumps(described, allow_nan=False)
