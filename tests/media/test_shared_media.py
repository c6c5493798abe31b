"""Every file of the media folder gives frames or a VideoError with a kind; what is special in some is seen."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from balletal.errors import VideoError
from balletal.video.clips import analysis_frames
from balletal.video.decode import read_frames
from balletal.video.probe import VIDEO_SUFFIXES, probe

pytestmark = pytest.mark.real_data

FOLDER = Path(os.environ.get("BALLETAL_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "media"
FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file())

# What is special in a file: values of its VideoInfo.
SPECIAL = {
    "decord/video_90.mov": {"rotation": 90, "width": 320, "height": 568},
    "decord/video_180.mov": {"rotation": 180, "width": 568},
    "decord/video_270.mov": {"rotation": 270, "width": 320},
    "debian_forensics/VID_20191220_170832.mp4": {"vfr": True, "frames": 41},
    "pypi_pose2sim/cam02.mp4": {"width": 1080, "height": 1920, "fps": 60.0, "codec": "vp9"},
    "torchcodec/av1_video.mkv": {"codec": "av1", "frames": 125},
    "torchcodec/h265_10bits.mp4": {"codec": "hevc"},
    "debian_mimetype/3gp.3gp": {"codec": "h263", "width": 384},  # 352 wide with pixels of 12:11
    "debian_mecavideo/balle1-vp9.avi": {"codec": "vp9", "vfr": True},
    # AVI with B-frames, which has no presentation times; the first of them has a title that is not UTF-8.
    "debian_pytorch-vision/hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi": {"fps": 30.0, "vfr": False},
    "mmaction2/test.avi": {"duration": 6.56, "vfr": False},
}
DAMAGED = {"decord/corrupted.mp4": "cannot be decoded", "debian_mimetype/mkv.mkv": "runs backwards"}


def test_the_folder_is_there(require: Callable[[str], NoReturn]) -> None:
    if not FILES:
        require(f"no media at {FOLDER}")
    assert set(SPECIAL) | set(DAMAGED) <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_every_file_gives_frames_or_says_why_not(name: str) -> None:
    path = FOLDER / name
    if path.suffix not in VIDEO_SUFFIXES:
        with pytest.raises(VideoError) as caught:
            probe(str(path))
        assert caught.value.kind == "not-a-video"
        return
    info = probe(str(path))
    for field, value in SPECIAL.get(name, {}).items():
        found = getattr(info, field)
        assert found == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value), field
    frames = read_frames(str(path), 25, 0, 40, size=64)
    assert len(frames.pixels) == min(40, analysis_frames(info.duration, 25))
    if name != "decord/unordered.mov":  # plain white
        assert frames.pixels.std() > 5
    if name not in DAMAGED:
        assert frames.damage is None
    middle = len(frames.pixels) // 2
    part = read_frames(str(path), 25, middle, middle + 3, size=64)
    np.testing.assert_array_equal(part.pixels, frames.pixels[middle : middle + 3])


@pytest.mark.parametrize("name", sorted(DAMAGED))
def test_damage_is_told(name: str, require: Callable[[str], NoReturn]) -> None:
    if not (FOLDER / name).is_file():
        require(f"no {name}")
    damage = read_frames(str(FOLDER / name), 25, 0, 10_000, size=64).damage
    assert DAMAGED[name] in str(damage)
