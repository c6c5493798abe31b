import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from fastapi.testclient import TestClient

from balletal import files
from balletal.video.probe import VIDEO_SUFFIXES
from tests.workflows.serve.fakes import FakeBackend, problem
from tests.workflows.serve.tiny import BYTES, upload, videos_client
from workflows.serve.app import create_app
from workflows.serve.data import Data
from workflows.serve.limits import Limits

MP4 = {"Content-Type": "video/mp4"}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, make_video) -> bytes:
    return make_video(tmp_path_factory.mktemp("clip") / "a.mp4", 2.0).read_bytes()


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    return videos_client(tmp_path / "data")


def test_a_video_in_one_request(client: TestClient, clip: bytes) -> None:
    sent = client.put("/v1/videos?name=Prélude%20II.mp4", content=iter([clip[:1000], clip[1000:]]), headers=MP4)
    assert sent.status_code == 201, sent.text
    video = sent.json()
    assert sent.headers["location"] == f"/v1/videos/{video['video_id']}"
    expected = {"name": "Prélude II.mp4", "bytes": len(clip), "sha256": hashlib.sha256(clip).hexdigest()}
    expected |= {"codec": "h264", "width": 64, "height": 48, "rotation": 0, "fps": 25.0, "vfr": False}
    expected |= {"duration": 2.0, "frames": 50, "playable": True, "warnings": []}
    assert {name: video[name] for name in expected} == expected
    assert set(video) == {*expected, "video_id", "created"}
    assert video["created"].endswith("Z")
    assert client.get(sent.headers["location"]).json() == video
    assert client.get("/v1/videos").json() == {"videos": [video]}


def test_an_upload_that_was_broken_off_is_resumed(client: TestClient, tmp_path: Path, clip: bytes) -> None:
    told = {"filename": "a.mp4", "bytes": len(clip), "sha256": hashlib.sha256(clip).hexdigest()}
    begun = client.post("/v1/uploads", json=told)
    assert begun.status_code == 201
    body = begun.json()
    assert (body["offset"], body["chunk_max"], body["bytes"]) == (0, 8 << 20, len(clip))
    where = begun.headers["location"]

    def patch(offset: int, piece: bytes, client: TestClient = client):
        return client.patch(where, content=piece, headers=BYTES | {"Upload-Offset": str(offset)})

    assert patch(0, clip[:1000]).headers["upload-offset"] == "1000"
    assert patch(1000, b"").headers["upload-offset"] == "1000"
    for replayed in (0, 999, 1001, 1 << 53):
        refused = patch(replayed, clip[:1000])
        assert problem(refused, 409, "offset")["upload_offset"] == 1000
        assert refused.headers["upload-offset"] == "1000"
    assert problem(client.post(f"{where}/complete"), 409, "offset")["upload_offset"] == 1000

    other = videos_client(tmp_path / "data")  # another replica
    head = other.head(where)
    assert (head.status_code, head.headers["upload-offset"], head.headers["upload-length"]) == (
        *(200, "1000"),
        str(len(clip)),
    )
    problem(patch(1000, clip[1000:] + b"x"), 413, "too-large")
    assert patch(1000, clip[1000:], other).status_code == 204
    done = other.post(f"{where}/complete")
    assert done.status_code == 201, done.text
    assert client.post(f"{where}/complete").json() == done.json()
    head = client.head(where)
    assert head.headers["upload-offset"] == str(len(clip))
    assert client.get(f"/v1/videos/{done.json()['video_id']}/content").content == clip


def test_what_does_not_fit_is_refused(tmp_path: Path, clip: bytes) -> None:
    limits = Limits(max_body_bytes=500, max_chunk_bytes=100, max_upload_bytes=1000, max_stored_bytes=2 << 20)
    client = videos_client(tmp_path, limits)
    for body in (bytes(501), iter([bytes(400), bytes(400)])):
        assert problem(client.put("/v1/videos", content=body, headers=MP4), 413, "too-large")["max_bytes"] == 500
    assert problem(client.post("/v1/uploads", json={"filename": "a", "bytes": 1001}), 413, "too-large")
    ids = [client.post("/v1/uploads", json={"filename": "a", "bytes": 1000}).json()["id"] for _ in range(2)]
    where = f"/v1/uploads/{ids[0]}"
    for body in (bytes(101), iter([bytes(60), bytes(60)])):
        problem(client.patch(where, content=body, headers=BYTES | {"Upload-Offset": "0"}), 413, "too-large")
    assert client.head(where).headers["upload-offset"] == "0"
    assert problem(client.post("/v1/uploads", json={"filename": "a", "bytes": 1}), 429, "quota")["max_stored_bytes"]
    problem(client.put("/v1/videos", content=clip[:10], headers=MP4), 429, "quota")
    assert client.delete(where).status_code == 204
    problem(client.delete(where), 404, "not-found")
    assert client.post("/v1/uploads", json={"filename": "a", "bytes": 1}).status_code == 201
    assert len(files.list_names(str(tmp_path / "uploads"))) == 2


def test_a_full_disk_is_told(client: TestClient, clip: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    upload_id = client.post("/v1/uploads", json={"filename": "a", "bytes": len(clip)}).json()["id"]

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    headers = BYTES | {"Upload-Offset": "0"}
    problem(client.patch(f"/v1/uploads/{upload_id}", content=clip, headers=headers), 507, "quota")
    problem(client.put("/v1/videos", content=clip, headers=MP4), 507, "quota")
    monkeypatch.undo()
    assert client.patch(f"/v1/uploads/{upload_id}", content=clip, headers=headers).status_code == 204
    assert client.post(f"/v1/uploads/{upload_id}/complete").status_code == 201


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({}, "filename"),
        ({"filename": "", "bytes": 1}, "filename"),
        ({"filename": "a\0.mp4", "bytes": 1}, "filename"),
        ({"filename": "../a.mp4", "bytes": 1}, "filename"),
        ({"filename": "\ud800", "bytes": 1}, "filename"),
        ({"filename": "a" * 256, "bytes": 1}, "filename"),
        ({"filename": "a", "bytes": 0}, "bytes"),
        ({"filename": "a", "bytes": 1.5}, "bytes"),
        ({"filename": "a", "bytes": 10**30}, "bytes"),
        ({"filename": "a", "bytes": 1, "sha256": "0"}, "sha256"),
        ({"filename": "a", "bytes": 1, "owner": "boris"}, "owner"),
    ],
)
def test_an_upload_is_described_properly(client: TestClient, body: dict, parameter: str) -> None:
    sent = client.post("/v1/uploads", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert problem(sent, 422, "bad-parameters")["errors"][0]["parameter"] == parameter


@pytest.mark.parametrize("offset", [None, "-1", "1.5", "x", "9" * 40])
def test_an_offset_is_a_number(client: TestClient, offset: str | None) -> None:
    upload_id = client.post("/v1/uploads", json={"filename": "a", "bytes": 9}).json()["id"]
    headers = BYTES | ({} if offset is None else {"Upload-Offset": offset})
    problem(client.patch(f"/v1/uploads/{upload_id}", content=b"1", headers=headers), 422, "bad-parameters")


@pytest.mark.parametrize("media_type", [None, "text/plain", "multipart/form-data", "application/x-www-form-urlencoded"])
def test_forms_of_other_sites_do_not_pass(client: TestClient, media_type: str | None) -> None:
    headers = {"Content-Type": media_type} if media_type else {}
    upload_id = client.post("/v1/uploads", json={"filename": "a", "bytes": 9}).json()["id"]
    sent = client.patch(f"/v1/uploads/{upload_id}", content=b"1", headers=headers | {"Upload-Offset": "0"})
    problem(sent, 415, "media-type")
    problem(client.put("/v1/videos", content=b"1", headers=headers), 415, "media-type")


def test_what_belongs_to_others_is_not_there(client: TestClient, tmp_path: Path, clip: bytes) -> None:
    boris = videos_client(tmp_path / "data", owner="boris")
    video_id = client.put("/v1/videos", content=clip, headers=MP4).json()["video_id"]
    upload_id = upload(client, clip)
    for one in (video_id, "0" * 24, "a", "..", "%2e%2e%2f%2e%2e", "A" * 24, "%00"):
        for method, tail in (("GET", ""), ("DELETE", ""), ("GET", "/content")):
            problem(boris.request(method, f"/v1/videos/{one}{tail}"), 404, "not-found")
        assert boris.head(f"/v1/videos/{one}/content").status_code == 404
    for one in (upload_id, "0" * 24, "a", video_id):
        assert boris.head(f"/v1/uploads/{one}").status_code == 404
        headers = BYTES | {"Upload-Offset": "0"}
        problem(boris.patch(f"/v1/uploads/{one}", content=b"1", headers=headers), 404, "not-found")
        problem(boris.post(f"/v1/uploads/{one}/complete"), 404, "not-found")
        problem(boris.delete(f"/v1/uploads/{one}"), 404, "not-found")
    assert boris.get("/v1/videos").json() == {"videos": []}
    assert client.get(f"/v1/videos/{video_id}").status_code == 200
    assert client.post(f"/v1/uploads/{upload_id}/complete").status_code == 201


def test_videos_are_listed_newest_first_in_pages(client: TestClient, clip: bytes) -> None:
    ids = [client.put("/v1/videos", content=clip, headers=MP4).json()["video_id"] for _ in range(5)][::-1]
    page = client.get("/v1/videos?limit=2").json()
    assert [video["video_id"] for video in page["videos"]] == ids[:2]
    assert client.delete(f"/v1/videos/{ids[1]}").status_code == 204  # the last that was seen
    client.put("/v1/videos", content=clip, headers=MP4)
    page = client.get(f"/v1/videos?limit=2&page_token={page['next_page_token']}").json()
    assert [video["video_id"] for video in page["videos"]] == ids[2:4]
    page = client.get(f"/v1/videos?limit=2&page_token={page['next_page_token']}").json()
    assert [video["video_id"] for video in page["videos"]] == ids[4:]
    assert "next_page_token" not in page
    for query in ("limit=0", "limit=1001", "page_token=x", f"page_token={'9' * 21}-{ids[0]}"):
        problem(client.get(f"/v1/videos?{query}"), 422, "bad-parameters")


def test_content_is_served_in_ranges(client: TestClient, tmp_path: Path, clip: bytes) -> None:
    name = "Pas de deux “2”\\.mp4".replace("\\", "%")
    video = client.put("/v1/videos", params={"name": name}, content=clip, headers=MP4).json()
    where, size = f"/v1/videos/{video['video_id']}/content", len(clip)
    whole = client.get(where)
    assert (whole.status_code, whole.content, whole.headers["content-type"]) == (200, clip, "video/mp4")
    etag = whole.headers["etag"]
    head = client.head(where)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(size), b"")
    assert (head.headers["etag"], head.headers["accept-ranges"]) == (etag, "bytes")

    part = client.get(where, headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, clip[100:200])
    assert part.headers["content-range"] == f"bytes 100-199/{size}"
    assert client.get(where, headers={"Range": "bytes=-10", "If-Range": etag}).content == clip[-10:]
    assert client.get(where, headers={"Range": "bytes=0-9", "If-Range": '"other"'}).content == clip
    assert client.get(where, headers={"Range": "bytes=0-1,4-5"}).status_code == 200
    refused = client.get(where, headers={"Range": f"bytes={size}-"})
    assert problem(refused, 416, "range")["size"] == size
    assert refused.headers["content-range"] == f"bytes */{size}"
    assert client.get(where, headers={"If-None-Match": f'"x", {etag}'}).status_code == 304

    sent = client.get(f"{where}?download=true").headers["content-disposition"]
    assert sent.startswith('attachment; filename="Pas de deux _2__.mp4"; filename*=UTF-8')
    assert "%E2%80%9C2%E2%80%9D%25.mp4" in sent

    next(tmp_path.rglob("content.mp4")).unlink()  # by a replica that removes it just now
    problem(client.get(where), 404, "not-found")


def test_no_body_of_any_kind_harms_the_service(client: TestClient, clip: bytes) -> None:
    bad = [
        (b"", "empty", 422),
        (b"a text is no video, though FFmpeg can draw one\n" * 50, "not-a-video", 415),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "not-a-video", 415),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "not-a-video", 415),
        (clip[:700], "truncated", 422),
        (clip[: clip.index(b"mdat") + 4] + bytes(2000), "corrupt", 422),
    ]
    for content, kind, status in bad:
        assert problem(client.put("/v1/videos", content=content, headers=MP4), status, "bad-video")["kind"] == kind
        if content:
            sent = client.post(f"/v1/uploads/{upload(client, content)}/complete")
            assert problem(sent, 422, "bad-video")["kind"] == kind
    sent = client.post(f"/v1/uploads/{upload(client, clip, sha256='0' * 64)}/complete")
    assert problem(sent, 422, "bad-video")["kind"] == "changed"
    assert client.get("/v1/videos").json() == {"videos": []}
    assert client.put("/v1/videos", content=clip, headers=MP4).status_code == 201


@pytest.mark.parametrize("limits", [{"max_duration_s": 1.9}, {"max_pixels": 64 * 48 - 1}, {"max_fps": 24.0}])
def test_a_video_beyond_the_limits(tmp_path: Path, clip: bytes, limits: dict[str, float]) -> None:
    client = videos_client(tmp_path, Limits(**limits))
    assert problem(client.put("/v1/videos", content=clip, headers=MP4), 422, "bad-video")["kind"] == "too-large"


def test_a_video_that_was_cut_is_taken_with_a_warning(client: TestClient, clip: bytes) -> None:
    sent = client.put("/v1/videos", content=clip[: int(len(clip) * 0.8)], headers=MP4)
    assert sent.status_code == 201, sent.text
    (warning,) = sent.json()["warnings"]
    assert "its header says 2.00 s" in warning
    assert 1.0 < float(warning.split("ends at ")[1].split()[0]) < 2.0


@pytest.mark.real_data
def test_the_media_folder(client: TestClient, shared: Path, require: Callable[[str], NoReturn]) -> None:
    """Each file is taken or refused with a kind. Browsers play H.264, VP8 and VP9 in their own containers."""
    media = shared / "media"
    if not media.is_dir():
        require(f"no media at {media}")
    playable, warned = set(), set()
    for path in sorted(media.rglob("*")):
        if not path.is_file():
            continue
        sent = client.put(f"/v1/videos?name={path.name}", content=path.read_bytes(), headers=MP4)
        if path.suffix not in VIDEO_SUFFIXES:
            assert problem(sent, 415, "bad-video")["kind"] == "not-a-video"
            continue
        video = sent.json()
        assert sent.status_code == 201, (path, sent.text)
        playable |= {path.suffix} if video["playable"] else set()
        warned |= {path.name} if video["warnings"] else set()
        if path.name in ("h264_10bits.mp4", "h265_video.mp4", "3gp.3gp"):
            assert not video["playable"]
    assert playable == {".mp4", ".mov", ".webm"}
    assert not warned


def test_videos_in_a_bucket(s3: str, clip: bytes) -> None:
    client, other = videos_client(f"{s3}/service"), videos_client(f"{s3}/service")
    upload_id = upload(client, clip, 5000)
    assert problem(
        other.patch(f"/v1/uploads/{upload_id}", content=b"1", headers=BYTES | {"Upload-Offset": "0"}), 409, "offset"
    )
    video = other.post(f"/v1/uploads/{upload_id}/complete").json()
    assert client.post(f"/v1/uploads/{upload_id}/complete").json() == video
    assert client.get("/v1/videos").json() == {"videos": [video]}
    where = f"/v1/videos/{video['video_id']}"
    assert client.get(f"{where}/content").content == clip
    assert client.get(f"{where}/content", headers={"Range": "bytes=500-599"}).content == clip[500:600]
    assert client.delete(where).status_code == 204
    problem(client.get(f"{where}/content"), 404, "not-found")
    assert files.list_sizes(f"{s3}/service/videos/{upload_id}") == {}
    assert files.list_sizes(f"{s3}/service/uploads/{upload_id}") == {}


def test_the_app_sweeps_while_it_runs(tmp_path: Path) -> None:
    with TestClient(create_app(FakeBackend(), Data(str(tmp_path)), Limits(ttl_s=0.2))) as client:
        # No piece is sent: an upload may be gone before one comes.
        assert client.post("/v1/uploads", json={"filename": "a.mp4", "bytes": 100}).status_code == 201
        until = time.monotonic() + 60
        while list(tmp_path.glob("uploads/*/upload.json")) and time.monotonic() < until:
            time.sleep(0.02)
        assert not list(tmp_path.glob("uploads/*/upload.json"))
