"""The crop track against synthetic ballet, whose joints are known."""

from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from balletal.synthetic.corpus import joints_uri, video_uri, write_video
from balletal.synthetic.presets import PRESETS
from balletal.video.track import track_dancer

SIZE = (384, 216)


# A fixed camera; one that zooms and goes along; one in the hand.
@pytest.mark.parametrize(("preset", "index"), [("easy", 0), ("stage", 1), ("wild", 5)])
def test_the_dancer_is_in_the_square(tmp_path: Path, preset: str, index: int) -> None:
    cv2.setNumThreads(1)
    record = write_video(str(tmp_path), index, 7, 7.0, PRESETS[preset], SIZE)
    track = track_dancer(video_uri(str(tmp_path), record.video_id), 25)
    rows = pq.read_table(joints_uri(str(tmp_path), record.video_id)).to_pandas()
    rows = rows[rows.dancer == 0]
    frames = np.clip(np.round(rows.time_s.to_numpy() * 25).astype(int), 0, len(track) - 1)
    boxes = np.array([track.box(k, record.width, record.height) for k in frames])
    x, y = np.moveaxis(np.stack(rows.joints_2d.to_list()).reshape(-1, 22, 2), 2, 0)
    inside = (boxes[:, :1] <= x) & (x <= boxes[:, 2:3]) & (boxes[:, 1:2] <= y) & (y <= boxes[:, 3:])
    assert track.mover.all()
    assert (inside.mean(axis=1) >= 0.9).mean() >= 0.85  # of the frames: nearly all of her
    assert (inside.mean(axis=1) >= 0.5).mean() >= 0.98
    # And close: a square of twice her height, or as much of it as the picture has.
    tall = np.median(np.ptp(y, axis=1))
    assert np.median(track.side) * min(SIZE) < 2.3 * tall
