"""How well the dancer's square holds the dancer: `python -m tests.benchmarks.tracking [--videos N]`.

Synthetic ballet, whose joints are known. Compared are the square of `balletal track`, that of a live session, which is
made before the rest of the video is known, and a plainer one, which follows the middle of what moves: saliency =
min |picture - picture 3 before or behind| above 12 grey levels, summed over +-6 pictures; its centroid near the last
one (Gaussian, sigma 30 of 160 pixels), smoothed over 1 s; side = 6 spreads, smoothed over 6 s, between 0.35 and 1 of
the height. Prints a Markdown table.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from balletal.synthetic.corpus import joints_uri, video_uri, write_video
from balletal.synthetic.presets import PRESETS
from balletal.video.decode import iter_frames, iter_grey
from balletal.video.live_track import LiveTrack
from balletal.video.motion import PIXELS
from balletal.video.track import track_dancer
from tests.benchmarks.extraction_common import load, machine

FPS = 25.0
SIZE = (480, 270)
# Not a seed that the tracker was made with.
SEED, SECONDS = 4711, 20.0

Boxes = NDArray[np.float64]


@dataclass
class Held:
    """Of each frame: share of the dancer's joints that the square holds, and its side over her height."""

    joints: list[NDArray[np.float64]]
    sides: list[NDArray[np.float64]]
    seconds: float = 0.0

    def line(self, preset: str, name: str, video_s: float) -> str:
        joints, sides = np.concatenate(self.joints), np.concatenate(self.sides)
        return (
            f"| {preset} | {name} | {(joints >= 0.9).mean():.3f} | {(joints >= 0.5).mean():.3f} | "
            f"{np.median(sides):.2f} | {video_s / self.seconds:.0f} |"
        )


def ours(uri: str, width: int, height: int) -> Boxes:
    track = track_dancer(uri, FPS)
    return np.array([track.box(k, width, height) for k in range(len(track))])


def live(uri: str, width: int, height: int) -> Boxes:
    track = LiveTrack(FPS, 1 / FPS)
    pieces = [track.push(time, grey) for time, grey in iter_grey(uri, PIXELS)]
    pieces.append(track.finish(round(SECONDS * FPS)))
    return np.array([piece.box(k, width, height) for piece in pieces for k in range(len(piece))])


def plain(uri: str, width: int, height: int) -> Boxes:
    greys = []
    for frame in iter_frames(uri, FPS, 160):
        grey = cv2.cvtColor(cv2.resize(frame, (160, 90), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        greys.append(cv2.GaussianBlur(grey, (5, 5), 0).astype(np.float32))
    pictures, n = np.stack(greys), len(greys)
    back, ahead = np.maximum(np.arange(n) - 3, 0), np.minimum(np.arange(n) + 3, n - 1)
    change = np.minimum(np.abs(pictures - pictures[back]), np.abs(pictures - pictures[ahead]))
    change[change < 12] = 0
    y, x = np.mgrid[:90, :160]
    places, spreads = np.full((n, 2), np.nan), np.full(n, np.nan)
    at = np.array([80.0, 45.0])
    for k in range(n):
        heat = change[max(0, k - 6) : k + 7].sum(axis=0)
        heat = heat * np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * 30**2))
        if heat.sum() < 1:
            continue
        at = np.array([(heat * x).sum(), (heat * y).sum()]) / heat.sum()
        places[k] = at
        spreads[k] = np.sqrt((heat * ((x - at[0]) ** 2 + (y - at[1]) ** 2)).sum() / heat.sum() / 2)
    seen = np.flatnonzero(~np.isnan(spreads))
    if not len(seen):
        return np.tile([(width - height) / 2, 0.0, (width + height) / 2, height], (n, 1))
    middle = np.stack([_smooth(np.interp(np.arange(n), seen, places[seen, a]), 1.0) for a in (0, 1)], axis=1)
    side = np.clip(6 * _smooth(np.interp(np.arange(n), seen, spreads[seen]), 6.0) / 90, 0.35, 1) * height
    left = np.clip(middle[:, 0] / 160 * width - side / 2, 0, width - side)
    top = np.clip(middle[:, 1] / 90 * height - side / 2, 0, height - side)
    return np.stack([left, top, left + side, top + side], axis=1)


def _smooth(values: NDArray[np.float64], seconds: float) -> NDArray[np.float64]:
    window = np.hanning(round(seconds * FPS) | 1)
    half = len(window) // 2
    padded = np.pad(values, half, mode="edge")
    return np.convolve(padded, window / window.sum(), mode="valid")


def center(uri: str, width: int, height: int) -> Boxes:
    frames = round(SECONDS * FPS)
    side = height * 224 / 256
    left, top = (width - side) / 2, (height - side) / 2
    return np.tile([left, top, left + side, top + side], (frames, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=10, help="of each preset")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    ways: dict[str, Callable[[str, int, int], Boxes]] = {"dancer": ours, "live": live, "plain": plain, "center": center}
    print(f"{machine('cpu')}; {load()} at the start\n")
    print("| preset | square | frames with >= 90 % of her joints | >= half | side / her height | video-s/s |")
    print("| --- | --- | --- | --- | --- | --- |")
    for preset in ("easy", "stage", "wild"):
        found = {name: Held([], []) for name in ways}
        video_s = 0.0
        with tempfile.TemporaryDirectory() as folder:
            for index in range(args.videos):
                record = write_video(folder, index, SEED, SECONDS, PRESETS[preset], SIZE)
                rows = pq.read_table(joints_uri(folder, record.video_id)).to_pandas()
                rows = rows[rows.dancer == 0]
                x, y = np.moveaxis(np.stack(rows.joints_2d.to_list()).reshape(-1, 22, 2), 2, 0)
                numbers = np.round(rows.time_s.to_numpy() * FPS).astype(int)
                video_s += numbers[-1] / FPS
                for name, way in ways.items():
                    start = time.perf_counter()
                    boxes = way(video_uri(folder, record.video_id), record.width, record.height)
                    found[name].seconds += time.perf_counter() - start
                    box = boxes[np.clip(numbers, 0, len(boxes) - 1)]
                    inside = (box[:, :1] <= x) & (x <= box[:, 2:3]) & (box[:, 1:2] <= y) & (y <= box[:, 3:])
                    found[name].joints.append(inside.mean(axis=1))
                    found[name].sides.append((box[:, 2] - box[:, 0]) / np.median(np.ptp(y, axis=1)))
        for name, held in found.items():
            print(held.line(preset, name, video_s), flush=True)


if __name__ == "__main__":
    main()
