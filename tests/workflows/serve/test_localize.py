import io
from collections.abc import Iterator
from pathlib import Path

import av
import jsonschema
import numpy as np
import pytest
from fastapi.testclient import TestClient

import schemas
from balletal.errors import VideoError
from tests.workflows.serve.fakes import MP4, FakeBackend, problem, video
from workflows.serve.app import create_app
from workflows.serve.backend import Part
from workflows.serve.data import Data
from workflows.serve.limits import Limits
from workflows.serve.sources import Sources


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def client(backend: FakeBackend, tmp_path: Path) -> TestClient:
    limits = Limits(max_body_bytes=1 << 20, max_json_bytes=1000, max_localize_s=2.0, max_part_of_s=4.0)
    return TestClient(create_app(backend, Data(str(tmp_path)), limits))


def test_a_video_gives_a_result(client: TestClient, backend: FakeBackend) -> None:
    response = client.post("/v1/localize?min_score=0.25&top_k=7", content=video(2.0), headers=MP4)
    assert response.status_code == 200, response.text
    result = response.json()
    jsonschema.Draft202012Validator(schemas.json_schema("result")).validate(result)
    assert result["model"] == {"name": "other", "version": "1", "digest": "3" * 64}
    assert result["video"]["duration"] == pytest.approx(2.0)
    assert (result["video"]["frames"], result["video"]["width"], result["video"]["codec"]) == (50, 64, "h264")
    assert [(s["label"], s["start_frame"], s["end_frame"]) for s in result["segments"]] == [
        ("Pirouette", 5, 15),
        ("Courus", 25, 50),
    ]
    (asked,) = backend.asked
    assert not asked.pop("video").exists()
    assert asked == {"model": "other@1", "part": Part(min_score=0.25, top_k=7)}
    stages = [part.split(";")[0] for part in response.headers["server-timing"].split(", ")]
    assert stages == ["receive", "probe", "features", "localize"]


def test_octet_stream_and_a_chunked_body_are_fine(client: TestClient) -> None:
    data = video(1.0)
    chunks = (data[i : i + 1000] for i in range(0, len(data), 1000))
    response = client.post("/v1/localize", content=chunks, headers={"Content-Type": "application/octet-stream"})
    assert response.status_code == 200, response.text


def test_a_long_video_is_told_where_to_go(client: TestClient, backend: FakeBackend) -> None:
    body = problem(client.post("/v1/localize", content=video(3.0), headers=MP4), 422, "use-async")
    assert body["duration"] == pytest.approx(3.0)
    assert body["max_seconds"] == 2.0
    assert "job" in body["detail"]
    assert not backend.asked


@pytest.mark.parametrize("declared", [True, False])
def test_a_large_body_is_refused(client: TestClient, backend: FakeBackend, declared: bool) -> None:
    data = bytes((1 << 20) + 1)
    body = problem(
        client.post("/v1/localize", content=data if declared else iter([data]), headers=MP4), 413, "too-large"
    )
    assert body["max_bytes"] == 1 << 20
    assert not backend.asked


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


def test_a_picture_beyond_the_limit(backend: FakeBackend, tmp_path: Path) -> None:
    client = TestClient(create_app(backend, Data(str(tmp_path)), Limits(max_pixels=1000)))
    body = problem(client.post("/v1/localize", content=video(1.0), headers=MP4), 422, "bad-video")
    assert (body["kind"], body["detail"]) == ("too-large", "expected at most 1000 pixels a picture, found 3072")


def test_only_so_many_at_once(backend: FakeBackend, tmp_path: Path) -> None:
    app = create_app(backend, Data(str(tmp_path)), Limits(max_localize_at_once=1))
    content, answers = video(1.0), []

    def slow() -> Iterator[bytes]:
        """A body in two halves; between them, somebody else asks."""
        yield content[:100]
        answers.append(TestClient(app).post("/v1/localize", content=content, headers=MP4))
        yield content[100:]

    assert TestClient(app).post("/v1/localize", content=slow(), headers=MP4).status_code == 200
    problem(answers[0], 503, "busy")
    assert answers[0].headers["retry-after"] == "5"
    assert TestClient(app).post("/v1/localize", content=content, headers=MP4).status_code == 200


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


def test_a_part_of_a_longer_video(client: TestClient, backend: FakeBackend) -> None:
    ask = "/v1/localize?model=fake&start=0.5&end=2.25"
    assert client.post(ask, content=video(3.0), headers=MP4).status_code == 200
    assert (backend.asked[0]["model"], backend.asked[0]["part"]) == ("fake@2", Part(0.5, 2.25))
    body = problem(client.post("/v1/localize?start=0.5", content=video(3.0), headers=MP4), 422, "use-async")
    assert body["max_seconds"] == 2.0
    body = problem(client.post("/v1/localize?start=4", content=video(5.0), headers=MP4), 422, "use-async")
    assert body["max_seconds"] == 4.0
    problem(client.post("/v1/localize?start=3", content=video(3.0), headers=MP4), 422, "bad-parameters")
    problem(client.post("/v1/localize?start=2&end=2", content=b"x", headers=MP4), 422, "bad-parameters")
    assert len(backend.asked) == 1


@pytest.mark.parametrize(
    ("body", "status", "urn"),
    [
        (b"{", 422, "bad-parameters"),
        (b'"\xff"', 422, "bad-parameters"),
        (b"{}", 422, "bad-parameters"),
        (b'{"video_id": "../../etc"}', 422, "bad-parameters"),
        (b'{"video_id": "' + b"0" * 24 + b'", "uri": "s3://b/v.mp4"}', 422, "bad-parameters"),
        (b'{"video_id": "' + b"0" * 24 + b'", "min_score": NaN}', 422, "bad-parameters"),
        (b'{"video_id": "' + b"0" * 24 + b'", "mystery": 1}', 422, "bad-parameters"),
        (b'{"video_id": "' + b"0" * 24 + b'"}', 404, "not-found"),
        (b'{"video_id": "' + b"0" * 24 + b'", "model": "unknown"}', 404, "not-found"),
        (b'{"uri": "/etc/passwd"}', 422, "forbidden-uri"),
        (b'{"uri": "file:///etc/passwd"}', 422, "forbidden-uri"),
        (b'{"uri": "' + b"x" * 2000 + b'"}', 413, "too-large"),
    ],
)
def test_json_that_names_no_video(client: TestClient, body: bytes, status: int, urn: str) -> None:
    problem(client.post("/v1/localize", content=body, headers={"Content-Type": "application/json"}), status, urn)


def test_a_place_that_is_allowed(backend: FakeBackend, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "v.mp4").write_bytes(video(1.0))
    sources = Sources((str(tmp_path / "videos"),))
    client = TestClient(create_app(backend, Data(str(tmp_path / "data")), sources=sources))
    ask = {"uri": str(tmp_path / "videos" / "v.mp4"), "model": "fake@1", "end": 0.5}
    response = client.post("/v1/localize", json=ask)
    assert response.status_code == 200, response.text
    assert (backend.asked[0]["model"], backend.asked[0]["video"]) == ("fake@1", ask["uri"])
    body = client.post("/v1/localize", json=ask | {"uri": str(tmp_path / "videos" / "w.mp4")})
    assert problem(body, 422, "bad-video")["kind"] == "missing"


def test_a_video_that_was_uploaded(client: TestClient, backend: FakeBackend) -> None:
    video_id = client.put("/v1/videos", content=video(1.0), headers=MP4).json()["video_id"]
    response = client.post("/v1/localize", json={"video_id": video_id, "top_k": 1})
    assert response.status_code == 200, response.text
    result = response.json()
    jsonschema.Draft202012Validator(schemas.json_schema("result")).validate(result)
    assert result["video"]["duration"] == pytest.approx(1.0)
    assert video_id in backend.asked[0]["video"]


def test_the_description_carries_the_schema(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    described = document["paths"]["/v1/localize"]["post"]
    schema = described["responses"]["200"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/Result"}
    told = document["components"]["schemas"]["Result"]
    assert told == {name: part for name, part in schemas.json_schema("result").items() if name != "$schema"}
    assert {"application/octet-stream", "application/json"} <= set(described["requestBody"]["content"])
