import os
import resource
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from balletal.errors import InputError, StorageError, VideoError
from balletal.video import probe as module
from balletal.video.decode import read_frames
from balletal.video.guard import guarded
from balletal.video.probe import probe

Write = Callable[..., Path]


def test_a_whole_video(write_video: Write) -> None:
    info = probe(str(write_video("a.mp4", np.arange(60) / 30)))
    assert (info.width, info.height, info.codec, info.frames, info.rotation) == (64, 48, "h264", 60, 0)
    assert info.duration == pytest.approx(2.0, abs=1e-3)
    assert info.fps == pytest.approx(30.0, abs=0.02)
    assert not info.vfr


def _sound_only(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _bad_file(folder: Path, what: str) -> Path:
    path = folder / f"{what}.mp4"
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "sound":
        _sound_only(path)
    elif what == "stub":
        path.write_bytes(b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isomiso2")
    elif what != "missing":
        text = {
            "zero": "",
            "text": "The quick brown fox\n" * 500,
            "playlist": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\na.mp4\n#EXT-X-ENDLIST\n",
            "concat": "ffconcat version 1.0\nfile 'a.mp4'\n",
            "riff": "RIFF....AVI ....",
        }[what]
        path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("missing", "missing"),
        ("folder", "missing"),
        ("pipe", "not-a-video"),
        ("zero", "empty"),
        ("text", "not-a-video"),
        ("playlist", "not-a-video"),
        ("concat", "not-a-video"),
        ("sound", "no-video-stream"),
        ("stub", "truncated"),
        ("riff", "corrupt"),
    ],
)
def test_what_is_no_video_is_refused_with_its_kind(tmp_path: Path, write_video: Write, what: str, kind: str) -> None:
    write_video("a.mp4", [0.0, 0.04])  # the file that the playlists name
    path = str(_bad_file(tmp_path, what))
    for use in (probe, lambda uri: read_frames(uri, 25, 0, 1)):
        with pytest.raises(VideoError) as caught:
            use(path)
        assert caught.value.kind == kind
        assert path in str(caught.value)


def test_limits(write_video: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(write_video("a.mp4", np.arange(60) / 30))
    with monkeypatch.context() as patch:
        patch.setattr(module, "MAX_DURATION_S", 1.0)
        with pytest.raises(VideoError, match="hours") as caught:
            probe(path)
        assert caught.value.kind == "too-large"
    with monkeypatch.context() as patch:
        patch.setattr(module, "MAX_PIXELS", 1000)
        with pytest.raises(VideoError, match="64 x 48") as caught:
            probe(path)
        assert caught.value.kind == "too-large"
        # A header that lies about the size gets past that check; the decoder has the limit too.
        patch.setattr(module, "check_picture", lambda *_: None)
        with pytest.raises(VideoError):
            probe(path)


def test_a_line_of_pixels_is_refused(write_video: Write) -> None:
    with pytest.raises(VideoError, match="16 : 1") as caught:
        probe(str(write_video("a.mp4", [0.0, 0.04], picture=lambda _: np.zeros((16, 320, 3), np.uint8))))
    assert caught.value.kind == "too-large"


def test_a_codec_out_of_the_list_is_refused(write_video: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CODECS", frozenset({"av1"}))
    with pytest.raises(VideoError, match="h264") as caught:
        probe(str(write_video("a.mp4", [0.0, 0.04])))
    assert caught.value.kind == "unsupported-codec"


def test_a_title_that_is_not_utf8_does_no_harm(write_video: Write) -> None:
    path = write_video("a.avi", np.arange(10) / 30, codec="mpeg4", bframes=0, metadata={"title": "Pippi Laangstrump"})
    data = path.read_bytes()
    assert b"Laangstrump" in data
    path.write_bytes(data.replace(b"Laangstrump", b"L\xe5\xffngstrump"))
    with pytest.raises(UnicodeDecodeError):
        av.open(str(path))
    assert probe(str(path)).frames == 10


def test_chained_uris_are_refused() -> None:
    with pytest.raises(InputError, match="chained"):
        probe("simplecache::file:///etc/hostname")


def test_pixels_that_are_not_square(write_video: Write, tmp_path: Path) -> None:
    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = 2
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(stream.encode(None))
    assert (probe(str(path)).width, probe(str(path)).height) == (128, 48)


class _Failing:
    """A file whose reads fail once it has given some bytes."""

    def __init__(self, path: Path, after: int, error: Exception) -> None:
        self.file, self.left, self.error = path.open("rb"), after, error
        self.seek, self.tell = self.file.seek, self.file.tell

    def __enter__(self) -> "_Failing":
        return self

    def __exit__(self, *args: object) -> None:
        self.file.close()

    def read(self, size: int) -> bytes:
        if self.left <= 0:
            raise self.error
        self.left -= size
        return self.file.read(size)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts", "a.flv"])
def test_a_read_that_fails_is_never_damage_of_the_video(
    write_video: Write, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    def noise(index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, 255, (128, 128, 3), np.uint8)

    path = write_video(name, np.arange(75) / 30, picture=noise)
    size = path.stat().st_size
    assert size > 4 * 2**18  # several reads
    expected = read_frames(str(path), 30, 20, 50)
    outcomes = set()
    for after in (*range(0, size + 2**18, 2**17), 10 * size):
        module._timeline.cache_clear()
        with monkeypatch.context() as patch:
            error = OSError(5, "Input/output error")
            patch.setattr(module, "open_file", lambda _, after=after, error=error: _Failing(path, after, error))
            try:
                got = read_frames(str(path), 30, 20, 50)
            except StorageError as told:
                outcomes.add(str(told))
            else:
                outcomes.add("read")
                assert got.damage is None
                np.testing.assert_array_equal(got.pixels, expected.pixels)
        # What PyAV keeps of a failed read must not come up in the next file.
        assert probe(str(path)).frames == 75
    assert outcomes == {f"{path}: expected storage that works, found Input/output error", "read"}
    assert capfd.readouterr() == ("", "")


def test_out_of_memory_is_not_damage_either(write_video: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(write_video("a.mp4", np.arange(30) / 30))
    with pytest.raises(VideoError) as caught:
        guarded(_short_of_memory, path, uri=path, limit_s=60)
    assert caught.value.kind == "too-large"


def _short_of_memory(path: str) -> None:
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + (64 << 20), -1))
    read_frames(path, 25, 0, 30, size=2048)
