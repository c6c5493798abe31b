import json
from pathlib import Path

import av
import numpy as np
import pytest

from balletal.errors import InputError
from balletal.labels import LabelSet
from balletal.synthetic.clips import FPS, Action, clip_frames, plan_clip, write_clips
from balletal.synthetic.dancer import STEPS


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clips")
    write_clips(str(out), videos=4, seconds=5, seed=3)
    return out


def test_videos_are_as_annotated(clips: Path) -> None:
    database = json.loads((clips / "annotations.json").read_text())["database"]
    assert [video["subset"] for video in database.values()] == ["training", "training", "validation", "testing"]
    labels = LabelSet.load("annchor-coarse")
    for name, video in database.items():
        with av.open(str(clips / "videos" / f"{name}.mp4")) as container:
            stream = container.streams.video[0]
            frames = sum(1 for _ in container.decode(stream))
            assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", FPS)
        assert frames == 5 * FPS
        assert video["duration"] == frames / FPS
        assert video["annotations"]
        before = 0.0
        for annotation in video["annotations"]:
            start, end = annotation["segment"]
            assert annotation["label"] in labels.index
            assert before <= start < end <= video["duration"]
            assert np.allclose([start * FPS, end * FPS], np.round([start * FPS, end * FPS]))
            before = end


def test_index_stands_in_front(clips: Path) -> None:
    data = (clips / "videos" / "clip000.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_a_seed_fixes_everything(clips: Path, tmp_path: Path) -> None:
    write_clips(str(tmp_path / "again"), videos=4, seconds=5, seed=3)
    write_clips(str(tmp_path / "other"), videos=3, seconds=2, seed=4)
    for file in sorted(path.relative_to(clips) for path in clips.rglob("*.*")):
        assert (tmp_path / "again" / file).read_bytes() == (clips / file).read_bytes()
    assert (tmp_path / "other/videos/clip000.mp4").read_bytes() != (clips / "videos/clip000.mp4").read_bytes()


def test_plans_fill_the_clip_and_hold_every_class() -> None:
    plans = [plan_clip(20, np.random.default_rng(seed)) for seed in range(10)]
    assert all(sum(action.frames for action in plan) == 20 * FPS for plan in plans)
    assert {action.label for plan in plans for action in plan} == {None, *STEPS}
    assert all(abs(action.x1) < 1 for plan in plans for action in plan)


def test_classes_move_visibly_differently() -> None:
    def motion(label: str | None) -> np.ndarray:
        frames = np.array(list(clip_frames([Action(label, 20, 0, 0, False)], np.random.default_rng(0))), dtype=float)
        return np.abs(np.diff(frames, axis=0)).mean(axis=(0, 3))

    moving = {label: motion(label) for label in STEPS}
    still = motion(None).sum()
    assert all(heat.sum() > 20 * max(still, 1) for heat in moving.values())
    # The jump with a turn reaches higher than the jump to second, which reaches wider.
    rows = {label: np.flatnonzero(heat.max(axis=1) > 1)[0] for label, heat in moving.items()}
    width = {label: np.ptp(np.flatnonzero(heat.max(axis=0) > 1)) for label, heat in moving.items()}
    assert rows["TourEnLair"] < rows["EchappeSecond"] < rows["Pirouette"] + 20
    assert width["EchappeSecond"] > width["TourEnLair"]
    assert width["ExtensionSecond"] > width["Pirouette"]


@pytest.mark.parametrize(("videos", "seconds"), [(2, 5.0), (3, 1.0), (3, float("nan")), (3, float("inf"))])
def test_too_little_is_refused(tmp_path: Path, videos: int, seconds: float) -> None:
    with pytest.raises(InputError, match="at least 3 videos of 2 s"):
        write_clips(str(tmp_path), videos, seconds)
