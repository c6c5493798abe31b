"""One extraction over every odd file there is: each is fully featured, or has error rows that say what to do."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from balletal.backbones.i3d import InceptionI3D
from balletal.features.extractor import spec_for
from balletal.features.store import FeatureStore
from balletal.video.clips import analysis_frames, clip_count
from balletal.video.probe import VIDEO_SUFFIXES
from workflows.cli import build
from workflows.extract import extract

pytestmark = [pytest.mark.ray, pytest.mark.real_data]

# Kinds of error rows, where any are due. A file that is damaged in parts keeps the features that could be made.
BAD = {
    "zero.mp4": {"empty"},
    "text.mp4": {"not-a-video"},
    "sound.mp4": {"no-video-stream"},
    "index.mp4": {"truncated", "no-video-stream"},
    "wide.mp4": {"too-large"},
    "cut.mp4": {"truncated", "corrupt"},
}
DAMAGED = {"decord/corrupted.mp4": {"corrupt", "truncated"}, "debian_mimetype/mkv.mkv": {"corrupt", "truncated"}}


def write(
    path: Path,
    times: np.ndarray,
    *,
    width: int = 64,
    height: int = 48,
    pix_fmt: str = "yuv420p",
    codec: str = "libx264",
    rotation: int = 0,
) -> Path:
    """A moving square, at presentation times in seconds."""
    options = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = Fraction(1, 1000)
        if codec == "libx264":
            stream.options = {"bf": "0", "g": "25", "preset": "ultrafast"}
        if rotation:
            stream.set_display_rotation(rotation)
        for i, time in enumerate(times):
            picture = np.full((height, width, 3), 30, np.uint8)
            picture[8:24, i % 40 : i % 40 + 16] = 200
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def make_odd_files(folder: Path) -> None:
    folder.mkdir()
    times = np.arange(50) / 25
    (folder / "zero.mp4").touch()
    (folder / "text.mp4").write_text("The quick brown fox\n" * 500)
    whole = write(folder / "cut.mp4", np.arange(100) / 25).read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: int(len(whole) * 0.9)])
    (folder / "index.mp4").write_bytes(whole[:40])
    write(folder / "vfr.mkv", np.cumsum(np.random.default_rng(0).uniform(0.01, 0.1, 40)))
    write(folder / "turned.mp4", times, rotation=90)
    write(folder / "ten-bit.mp4", times, pix_fmt="yuv420p10le")
    write(folder / "picture.mp4", times[:1])
    write(folder / "huge.mp4", times[:2], width=3840, height=2160)
    write(folder / "wide.mp4", times[:2], width=2048, height=32)
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture
def folder(tmp_path: Path, shared: Path, require: Callable[[str], object]) -> Path:
    """The odd files, and links to those of the media folder."""
    media = shared / "media"
    if not media.is_dir():
        require(f"no media at {media}")
    make_odd_files(tmp_path / "videos")
    for file in media.rglob("*"):
        if file.suffix in VIDEO_SUFFIXES:
            link = tmp_path / "videos" / file.relative_to(media)
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(file)
    return tmp_path / "videos"


def test_every_file_is_featured_or_told(tmp_path: Path, folder: Path, ray_cluster: None) -> None:
    torch.manual_seed(0)
    weights, uri = str(tmp_path / "random.safetensors"), str(tmp_path / "store")
    state = {name: value.contiguous() for name, value in InceptionI3D(num_classes=0).state_dict().items()}
    safetensors.torch.save_file(state, weights)
    spec = spec_for("i3d-rgb", weights=weights, window=16, stride=16, size=32, dtype="float32", mode="windowed")
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}

    summary = extract(str(folder), uri, spec=spec, weights=weights, video_ids="path")
    assert summary["videos"] == len(names)
    store = FeatureStore.open(uri)
    result = CliRunner().invoke(build(), ["errors", "--store", uri, "--json"])
    assert result.exit_code == 0
    told: dict[str, set[str]] = {}
    for row in json.loads(result.stdout):
        told.setdefault(row["video_id"], set()).add(row["type"])
        assert row["message"].startswith(f"{folder / row['video_id']}: expected ")
        assert ", found " in row["message"]
    due = {name: kinds for name, kinds in (BAD | DAMAGED).items() if name in names}
    assert set(told) == set(due)
    for name, kinds in told.items():
        assert kinds <= due[name], (name, kinds)
    assert summary["videos_failed"] == len(due)

    durations = store.videos().set_index("video_id")["duration"]
    for name in names - set(due):
        features = store.read(name).features
        frames = analysis_frames(durations[name], spec.fps)
        assert len(features) == clip_count(frames, spec.window, spec.stride), name
    assert set(store.video_ids()) >= names - set(BAD)
    assert len(store.read("cut.mp4").features) >= 3
