"""A small set of drawn clips for the demonstration: a stick dancer on a plain stage, with exact annotations.

This is not the synthetic corpus: one figure, five classes, no scenery, no camera. It exists so that every stage from
video to report can run in minutes without any data. The same seed gives the same pictures and annotations.
"""

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from balletal import files
from balletal.errors import InputError
from balletal.synthetic.dancer import HEIGHT, STAND, STEPS, WIDTH, Pose, draw, random_look

FPS = 25


@dataclass(frozen=True)
class Action:
    """A step, or an idle or walking stretch (label None), of ``frames`` frames from stage place ``x0`` to ``x1``."""

    label: str | None
    frames: int
    x0: float
    x1: float
    mirrored: bool


def plan_clip(seconds: float, random: np.random.Generator) -> list[Action]:
    """Steps and pauses that fill a clip exactly."""
    left, x = round(seconds * FPS), 0.0
    actions: list[Action] = []
    while left > 0:
        if len(actions) % 2 == 0:  # a pause, sometimes long enough to walk to another place
            walks = random.random() < 0.4
            frames = int(random.integers(15, 45)) if walks else int(random.integers(3, 40))
            action = Action(None, min(frames, left), x, float(random.uniform(-0.55, 0.55)) if walks else x, False)
        else:
            label = str(random.choice(list(STEPS)))
            step = STEPS[label]
            frames = round(random.uniform(*step.seconds) * FPS)
            if frames > left:
                action = Action(None, left, x, x, False)
            else:
                way = step.travel * random.uniform(0.8, 1.1) * (1 if x < 0 else -1)
                action = Action(label, frames, x, x + way, bool(random.random() < 0.5))
        actions.append(action)
        left -= action.frames
        x = action.x1
    return actions


def clip_frames(actions: list[Action], random: np.random.Generator) -> Iterator[NDArray[np.uint8]]:
    """The pictures of a plan: (240, 320, 3) uint8 RGB. Stage, costume and the dancer's size vary with ``random``."""
    look = random_look(random)
    for action in actions:
        for k in range(action.frames):
            # The middle of the frame's time, so that a step's first picture already moves.
            yield draw(look, *_moment(action, (k + 0.5) / action.frames))


def _moment(action: Action, u: float) -> tuple[Pose, float, float, float]:
    """Pose, turn (radians), place and height of the feet at share ``u`` of an action."""
    way = action.x1 - action.x0
    x = action.x0 + way * u
    edge = float(np.interp(u, [0, 0.2, 0.8, 1], [0, 1, 1, 0]))
    facing = np.sign(way) * np.pi / 2 * edge
    if action.label is None:
        swing = np.sin(2 * np.pi * u * action.frames / FPS * 1.6) * edge * min(1.0, abs(way) * 4)
        pose = STAND.copy()
        pose[[0, 1, 2, 3], 2] += np.array([0.45, 0.3, -0.45, -0.3]) * swing
        pose[[4, 5, 6, 7], 2] += np.array([-0.4, -0.4, 0.4, 0.4]) * swing
        return pose / np.linalg.norm(pose, axis=1, keepdims=True), facing, x, 0.0
    step = STEPS[action.label]
    times = np.array([0.0, *(at for at, _ in step.poses), 1.0])
    poses = np.array([STAND, *(pose for _, pose in step.poses), STAND])
    after = min(int(np.searchsorted(times, u, side="right")), len(times) - 1)
    w = (u - times[after - 1]) / (times[after] - times[after - 1])
    w = w * w * (3 - 2 * w)
    pose = poses[after - 1] * (1 - w) + poses[after] * w
    pose /= np.linalg.norm(pose, axis=1, keepdims=True).clip(1e-6)
    if action.mirrored:
        pose = pose[[2, 3, 0, 1, 6, 7, 4, 5]] * [-1, 1, 1]
    turn = 2 * np.pi * step.turns * np.interp(u, [0.18, 0.88], [0, 1]) * (-1 if action.mirrored else 1)
    v = np.clip((u - 0.18) / 0.7, 0, 1)
    return pose, facing + turn, x, 4 * step.jump * v * (1 - v)


def write_video(path: Path, frames: Iterator[NDArray[np.uint8]]) -> int:
    """Write RGB pictures as H.264 (yuv420p, index in front, a keyframe a second); returns how many there were."""
    count = 0
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        # One thread: more would make the bytes depend on timing.
        stream.options = {"preset": "veryfast", "crf": "22", "g": str(FPS), "threads": "1"}
        for picture in frames:
            # Not by FFmpeg's scaler: its rounding depends on where the picture lies in memory.
            planes = cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(planes, np.uint8), format="yuv420p")))
            count += 1
        container.mux(stream.encode())
    return count


def write_clips(out: str, videos: int, seconds: float, seed: int = 0) -> dict[str, Any]:
    """Write ``<out>/videos/*.mp4`` and ``<out>/annotations.json`` (ActivityNet, subsets by video).

    About 15 % of the videos each, but at least one, are for validation and for testing.

    Returns:
        The annotations.

    Raises:
        InputError: fewer than 3 videos (no split) or clips under 2 s (no room for a step).
    """
    if videos < 3 or not 2 <= seconds < math.inf:  # not a number is neither
        raise InputError("clips", expected="at least 3 videos of 2 s", found=f"{videos} of {seconds:g} s")
    held_out = max(1, round(0.15 * videos))
    database: dict[str, Any] = {}
    for i in range(videos):
        random = np.random.default_rng([seed, i])
        name = f"clip{i:03d}"
        actions = plan_clip(seconds, random)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "clip.mp4"
            count = write_video(path, clip_frames(actions, random))
            files.write_bytes(files.join(out, "videos", f"{name}.mp4"), path.read_bytes())
        ends = np.cumsum([action.frames for action in actions])
        subset = "training" if i < videos - 2 * held_out else "validation" if i < videos - held_out else "testing"
        database[name] = {
            "subset": subset,
            "duration": count / FPS,
            "fps": float(FPS),
            "annotations": [
                {"label": action.label, "segment": [float(end - action.frames) / FPS, float(end) / FPS]}
                for action, end in zip(actions, ends, strict=True)
                if action.label is not None
            ],
        }
    annotations = {"version": f"balletal clips, seed {seed}", "database": database}
    files.write_json(files.join(out, "annotations.json"), annotations)
    return annotations
