"""`balletal track`: the square drawn over the video, the table, the summary."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from balletal.errors import InputError, VideoError
from balletal.video.decode import iter_frames, read_frames
from balletal.video.probe import probe
from balletal.video.track import CropTrack, track_dancer
from workflows.cli import build
from workflows.console import run
from workflows.track import draw, track

MakeVideo = Callable[..., Path]


def test_the_overlay_has_every_analysis_frame_and_the_square(make_video: MakeVideo, tmp_path: Path) -> None:
    video = str(make_video(tmp_path / "in.mp4", 3, seed=1))
    out, table = tmp_path / "new" / "overlay.mp4", tmp_path / "track.parquet"
    summary = track(video, 12.5, out=str(out), table=str(table))
    found = CropTrack.from_table(pq.read_table(table))
    assert len(found) == summary["frames"] == 38
    assert summary["seconds"] == pytest.approx(38 / 12.5, abs=1e-3)
    assert summary["shots"] == 1
    info = probe(str(out))
    assert (info.codec, info.width, info.height, info.frames, info.fps) == ("h264", 64, 48, 38, 12.5)
    assert out.read_bytes().index(b"moov") < out.read_bytes().index(b"mdat")
    shown = read_frames(str(out), 12.5, 0, 100, crop="full", size=96).pixels
    plain = read_frames(video, 12.5, 0, 100, crop="full", size=96).pixels
    assert np.abs(shown.astype(int) - plain).mean(axis=(1, 2, 3)).min() > 2  # something is drawn on each
    assert sorted(path.name for path in out.parent.iterdir()) == ["overlay.mp4"]  # and nothing is left over


def test_a_picture_is_marked_as_its_row_says() -> None:
    frame = np.full((400, 600, 3), 90, np.uint8)
    found = CropTrack(
        fps=25.0,
        center=np.array([[0.5, 0.5], [0.5, 0.5]], np.float32),
        side=np.array([0.5, 1.0], np.float32),
        mover=np.array([True, False]),
        shot=np.zeros(2, np.int32),
    )
    square, whole = draw(frame, found, 0), draw(frame, found, 1)
    assert (square[100, 200:400] != 90).any(axis=1).all()  # the upper side, 200 pixels long
    assert (square[101:299, 202:398] == 90).all() or (square[104:296, 204:396] == 90).all()
    assert (whole[100, 200:400] == 90).all()
    assert cv2.absdiff(square[:60], whole[:60]).any()  # the words differ: "full"
    assert (frame == 90).all()


def test_frames_are_made_no_longer_than_asked_and_stay_even(make_video: MakeVideo, tmp_path: Path) -> None:
    video = str(make_video(tmp_path / "in.mp4", 1))
    assert {frame.shape for frame in iter_frames(video, 25, 1280)} == {(48, 64, 3)}
    frames = list(iter_frames(video, 10, 41))
    assert len(frames) == 10
    assert {frame.shape for frame in frames} == {(30, 40, 3)}


def test_errors_name_the_file(make_video: MakeVideo, tmp_path: Path) -> None:
    video = str(make_video(tmp_path / "in.mp4", 1))
    with pytest.raises(InputError, match=r"\.mp4"):
        track(video, out=str(tmp_path / "overlay.avi"))
    with pytest.raises(VideoError, match=r"gone\.mp4"):
        track(str(tmp_path / "gone.mp4"))
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(InputError, match="folder"):
        track(video, out=str(tmp_path / "folder.mp4"))
    with pytest.raises(InputError, match=r"in\.mp4: expected a folder"):
        track(video, out=f"{video}/o.mp4")
    assert not list(tmp_path.glob(".*"))


def test_nothing_is_written_over_the_video_or_twice(make_video: MakeVideo, tmp_path: Path) -> None:
    video = make_video(tmp_path / "in.mp4", 1)
    (tmp_path / "link.mp4").symlink_to(video)
    before, other = video.read_bytes(), str(tmp_path / "other.mp4")
    for outs in ({"out": str(video)}, {"table": str(video)}, {"out": str(tmp_path / "link.mp4")}):
        with pytest.raises(InputError, match="a file of its own"):
            track(str(video), **outs)
    with pytest.raises(InputError, match="a file of its own"):
        track(str(video), out=other, table=other)
    assert video.read_bytes() == before


def test_a_picture_of_a_few_pixels() -> None:
    found = CropTrack(
        25.0, np.full((1, 2), 0.5, np.float32), np.ones(1, np.float32), np.zeros(1, bool), np.zeros(1, np.int32)
    )
    assert draw(np.zeros((2, 2, 3), np.uint8), found, 0).shape == (2, 2, 3)


def test_the_command(
    make_video: MakeVideo, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    video = str(make_video(tmp_path / "in.mp4", 3))
    monkeypatch.setattr(sys, "argv", ["balletal", "track", video, "--json"])
    with pytest.raises(SystemExit) as ended:
        run(build())
    assert not ended.value.code
    summary = json.loads(capsys.readouterr().out)
    assert summary["frames"] == len(track_dancer(video, 25)) == 75
    assert summary["tracker"] == "motion-1"
