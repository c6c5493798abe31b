import pickle
from pathlib import Path

import httpx
import jsonschema
import pytest

import schemas
from balletal.client import Client, ServiceError, Upload
from balletal.errors import InputError
from balletal.segments import DETECTION_COLUMNS
from tests.workflows.serve.fakes import MODELS, video
from tests.workflows.serve.whole import TOKEN, Whole, line_to
from workflows.serve.backend import Part


def test_what_the_service_is(client: Client, service: Whole) -> None:
    assert client.ready()
    service.backend.is_ready = False
    assert not client.ready()
    service.backend.is_ready = True
    assert client.limits()["max_chunk_bytes"] == 1000
    served = client.models()
    assert [one.id for one in served.models] == [one.id for one in MODELS]
    assert served.default == "other@1"
    assert served.models[0].feature.stride_s == pytest.approx(1.0)


def test_a_file_an_uploaded_video_and_a_uri_give_one_result(client: Client, service: Whole, clip: Path) -> None:
    (service.place / "clip.mp4").write_bytes(clip.read_bytes())
    sent = client.upload(clip)
    wanted = {"model": "fake", "min_score": 0.1, "top_k": 3, "start": 0.5}
    results = [
        client.localize(clip, **wanted),
        client.localize(video_id=sent.video_id, **wanted),
        client.localize(uri=str(service.place / "clip.mp4"), **wanted),
    ]
    told = [(asked["model"], asked["part"]) for asked in service.backend.asked[-3:]]
    assert told == [("fake@2", Part(0.5, min_score=0.1, top_k=3))] * 3
    for result in results:
        jsonschema.Draft202012Validator(schemas.json_schema("result")).validate(result.body)
        assert result.body == results[0].body
        assert result.model["version"] == "2"
    table = results[0].segments
    assert list(table.columns) == [*DETECTION_COLUMNS, "start_frame", "end_frame"]
    assert table["label"].tolist() == ["Pirouette", "Courus"]
    assert [result.segments["video_id"][0] for result in results] == ["clip", sent.video_id, "clip"]


def test_what_is_too_much_for_a_request_is_told(client: Client, tmp_path: Path) -> None:
    (tmp_path / "long.mp4").write_bytes(video(3.0))
    with pytest.raises(ServiceError, match="make a job") as refused:
        client.localize(tmp_path / "long.mp4")
    assert (refused.value.status, refused.value.type) == (422, "urn:balletal:use-async")
    assert refused.value.more["max_seconds"] == 2.0
    assert len(refused.value.request_id) == 32
    (tmp_path / "large.mp4").write_bytes(bytes(100_001))
    with pytest.raises(InputError, match="a job takes larger"):
        client.localize(tmp_path / "large.mp4")
    with pytest.raises(InputError, match="one of a path"):
        client.localize(tmp_path / "large.mp4", uri="s3://bucket/a.mp4")
    with pytest.raises(InputError, match="expected a file"):
        client.localize(tmp_path / "none.mp4")


def test_an_upload_is_told_piece_by_piece_and_listed(client: Client, clip: Path) -> None:
    told: list[Upload] = []
    sent = client.upload(clip, name="Giselle.mp4", progress=told.append)
    size = clip.stat().st_size
    assert [one.offset for one in told] == [*range(0, size, 1000), size]
    assert (sent.name, sent.bytes, sent.duration) == ("Giselle.mp4", size, pytest.approx(2.0))
    assert client.video(sent.video_id) == sent
    assert sent in list(client.videos())
    client.delete_video(sent.video_id)
    assert sent not in list(client.videos())
    with pytest.raises(ServiceError, match="404"):
        client.video(sent.video_id)


Cuts = list[tuple[int | None, int | None]]

# In a piece on its way, where the answer is on its way back, and where an upload is begun or asked for.
CUTS: list[Cuts] = [[(3000, None)], [(None, 2300)], [(2000, None), (700, None), (None, 100), (None, 700)]]


def test_a_video_comes_back_whole_or_in_part(client: Client, clip: Path) -> None:
    content, video_id = clip.read_bytes(), client.upload(clip).video_id
    with client.content(video_id) as answer:
        assert (answer.headers["Content-Type"], answer.content) == ("video/mp4", content)
    with client.content(video_id, {"Range": "bytes=10-19"}) as answer:
        assert (answer.status_code, answer.content) == (206, content[10:20])
    with pytest.raises(ServiceError, match="404"):
        client.content("0" * 24)


@pytest.mark.parametrize("cuts", CUTS)
def test_a_line_that_is_cut_loses_nothing(
    service: Whole, clip: Path, cuts: list[tuple[int | None, int | None]]
) -> None:
    with line_to(service.url) as (url, line), Client(url, TOKEN) as client:
        client.limits()
        line.cuts += cuts
        client.close()  # the next request makes a new connection
        told: list[Upload] = []
        sent = client.upload(clip, progress=told.append)
        assert sent.bytes == clip.stat().st_size  # the service has compared the hash
        assert not line.cuts
        assert line.taken >= len(cuts) + 2
        offsets = [one.offset for one in told]
        assert offsets == sorted(set(offsets))


def test_an_upload_that_was_given_up_is_resumed(service: Whole, client: Client, clip: Path, tmp_path: Path) -> None:
    with line_to(service.url) as (url, line), Client(url, TOKEN, patience_s=0.0) as impatient:
        line.cuts.append((4000, None))
        with pytest.raises(ServiceError) as lost:
            impatient.upload(clip)
    assert lost.value.type == "urn:balletal:unreachable"
    upload_id = lost.value.more["upload_id"]
    (tmp_path / "other.mp4").write_bytes(b"another")
    with pytest.raises(InputError, match="expected the file of upload"):
        client.upload(tmp_path / "other.mp4", resume=upload_id)
    told: list[Upload] = []
    sent = client.upload(clip, resume=upload_id, progress=told.append)
    assert told[0].offset >= 1000
    assert sent.video_id == upload_id
    assert client.upload(clip, resume=upload_id) == sent


def test_pieces_that_are_there_already_are_not_sent_again(client: Client, service: Whole, clip: Path) -> None:
    offsets = []

    def told(upload: Upload) -> None:
        offsets.append(upload.offset)
        if len(offsets) == 2:  # somebody else goes on with it
            headers = {"Upload-Offset": "1000", "Authorization": f"Bearer {TOKEN}"}
            headers |= {"Content-Type": "application/octet-stream"}
            piece = clip.read_bytes()[1000:1500]
            sent = httpx.patch(f"{service.url}/v1/uploads/{upload.id}", content=piece, headers=headers)
            assert sent.status_code == 204

    size = clip.stat().st_size
    assert client.upload(clip, progress=told).bytes == size
    assert offsets == [0, 1000, *range(1500, size, 1000), size]


def test_what_is_no_video_is_told(client: Client, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"text")
    with pytest.raises(ServiceError) as refused:
        client.upload(tmp_path / "a.mp4")
    assert (refused.value.status, refused.value.type) == (422, "urn:balletal:bad-video")
    assert refused.value.more["kind"] == "not-a-video"
    again = pickle.loads(pickle.dumps(refused.value))
    assert (str(again), again.more) == (str(refused.value), refused.value.more)


def test_a_token_opens_and_is_told_nowhere(service: Whole, clip: Path, monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert Client(service.url, TOKEN).models()
    for token in (None, "another-token-0123456789"):
        with pytest.raises(ServiceError) as refused:
            Client(service.url, token).localize(clip)
        assert (refused.value.status, refused.value.type) == (401, "urn:balletal:unauthenticated")
        assert token is None or token not in str(refused.value)
    assert repr(Client(service.url, TOKEN)) == f"Client({service.url!r})"
