import asyncio
import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from fastapi.testclient import TestClient

from balletal.errors import VideoError
from balletal.video.decode import iter_pictures, read_frames
from balletal.video.probe import probe
from tests.workflows.serve.fakes import problem
from tests.workflows.serve.tiny import videos_client
from workflows.serve import preview as previews
from workflows.serve.data import Data
from workflows.serve.library import Library

MP4 = {"Content-Type": "video/mp4"}
CLICK_S = 1.25


def phone_video(path: Path, suffix: str = ".mp4") -> bytes:
    """Two seconds and a bit that no browser plays (4:4:4): lying, of odd sides, at a varying rate, with a click."""
    times = np.cumsum(np.random.default_rng(0).integers(20, 90, 45)) / 1000
    path = path.with_suffix(suffix)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 99, 51, "yuv444p"
        stream.codec_context.time_base = Fraction(1, 1000)
        if suffix == ".mp4":
            stream.set_display_rotation(-90)
        sound = container.add_stream("aac", rate=44100, layout="mono")
        for i, time in enumerate(times - times[0]):
            picture = np.full((51, 99, 3), 30, np.uint8)
            picture[8:24, i * 2 : i * 2 + 16] = (200, 80, 40)
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        samples = np.zeros((1, 1024 * 90), np.float32)
        samples[0, int(CLICK_S * 44100) :][:200] = 1.0
        for start in range(0, samples.shape[1], 1024):
            piece = av.AudioFrame.from_ndarray(samples[:, start : start + 1024].copy(), "fltp", "mono")
            piece.sample_rate, piece.pts, piece.time_base = 44100, start, Fraction(1, 44100)
            container.mux(sound.encode(piece))
        container.mux(sound.encode())
    return path.read_bytes()


def sent(client: TestClient, content: bytes) -> str:
    video = client.put("/v1/videos", content=content, headers=MP4).json()
    assert video["playable"] is False
    return str(video["video_id"])


def test_a_preview_shows_and_sounds_the_same_at_the_same_time(tmp_path: Path) -> None:
    client = videos_client(tmp_path / "data")
    original, copy = str(tmp_path / "a.mp4"), tmp_path / "preview.mp4"
    where = f"/v1/videos/{sent(client, phone_video(tmp_path / 'a'))}/content"
    answer = client.get(where)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "video/mp4"), answer.text
    assert client.get(f"{where}?download=true").content == Path(original).read_bytes()
    assert client.get(where, headers={"Range": "bytes=4-7"}).content == b"ftyp"
    copy.write_bytes(answer.content)

    before, after = probe(original), probe(str(copy))
    assert (before.width, before.height, before.rotation) == (51, 99, 90)
    assert (after.width, after.height, after.rotation, after.codec) == (52, 100, 0, "h264")
    assert after.duration == pytest.approx(before.duration, abs=0.02)
    times = [[time for time, *_ in iter_pictures(uri, 100)] for uri in (original, str(copy))]
    np.testing.assert_allclose(*times, atol=1e-4)
    pixels = [read_frames(uri, 10, 0, 100, size=64).pixels.astype(float) for uri in (original, str(copy))]
    assert pixels[0].shape == pixels[1].shape
    differences = [np.abs(pixels[0][n:-3] - pixels[1][: len(pixels[1]) - 3 - n]).mean() for n in range(3)]
    assert differences[0] < 0.7 * differences[1] < differences[2]  # so that a shift of the clock would show

    assert answer.content.index(b"moov") < answer.content.index(b"mdat")
    with av.open(str(copy)) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
        keys = [float(packet.pts * packet.time_base) for packet in container.demux(video=0) if packet.is_keyframe]
        assert [int(time) for time in keys] == list(range(int(after.duration) + 1))
    with av.open(str(copy)) as container:
        loudest = max(container.decode(audio=0), key=lambda frame: float(np.abs(frame.to_ndarray()).max()))
        assert loudest.time == pytest.approx(CLICK_S, abs=0.03)


def test_a_preview_is_made_once_for_all_who_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = videos_client(tmp_path / "data")
    video_id = sent(client, phone_video(tmp_path / "a", ".mkv"))
    library = Library(Data(str(tmp_path / "data")))
    video, made = library.find("anna", video_id), []
    guarded = previews.guarded

    def counted(*args, **kwargs):
        made.append(args)
        return guarded(*args, **kwargs)

    monkeypatch.setattr(previews, "guarded", counted)

    async def ask() -> list[tuple[str, int]]:
        return await asyncio.gather(*(previews.preview(library, video) for _ in range(4)))

    monkeypatch.setattr(previews, "WAIT_S", 0.0)
    answer = client.get(f"/v1/videos/{video_id}/content")
    problem(answer, 503, "not-ready")
    assert answer.headers["retry-after"] == "5"
    monkeypatch.setattr(previews, "WAIT_S", 60.0)
    assert len(set(asyncio.run(ask()))) == 1
    whole = client.get(f"/v1/videos/{video_id}/content")
    assert probe_bytes(whole.content) == pytest.approx(video.duration, abs=0.02)
    assert len(made) == 1
    folder = Path(library.data.folder("videos", video_id))
    assert sorted(path.name for path in folder.iterdir()) == ["content.mkv", "preview.mp4", "video.json"]


def probe_bytes(content: bytes) -> float:
    with av.open(io.BytesIO(content)) as container:
        stream = container.streams.video[0]
        return float(stream.duration * stream.time_base)


def test_a_preview_that_cannot_be_made_is_told_from_then_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = videos_client(tmp_path / "data")
    video_id = sent(client, phone_video(tmp_path / "a"))
    calls = []

    def fails(*args: object, uri: str, **_: object) -> None:
        calls.append(uri)
        raise VideoError(uri, "timeout", expected="a video that decodes", found=f"no end of {uri}")

    monkeypatch.setattr(previews, "guarded", fails)
    for _ in range(2):
        assert problem(client.get(f"/v1/videos/{video_id}/content"), 422, "bad-video")["kind"] == "timeout"
    assert len(calls) == 1
    assert client.get(f"/v1/videos/{video_id}/content?download=1").status_code == 200
    assert client.delete(f"/v1/videos/{video_id}").status_code == 204
    assert not list((tmp_path / "data" / "videos").iterdir())


def test_a_video_removed_while_its_preview_is_made_stays_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = videos_client(tmp_path / "data")
    video_id = sent(client, phone_video(tmp_path / "a"))

    def removes(function, source: str, path: str, **_: object) -> None:
        Path(path).write_bytes(b"made")
        Library(Data(str(tmp_path / "data"))).remove(video_id)

    monkeypatch.setattr(previews, "guarded", removes)
    assert client.get(f"/v1/videos/{video_id}/content").status_code in (404, 503)
    assert not list((tmp_path / "data" / "videos").iterdir())
