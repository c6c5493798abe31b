"""Units of work: which stretches a video is cut into for a spec, and the frames that each of them needs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balletal.backbones.flow import optical_flow
from balletal.backbones.i3d import HALO, STEP
from balletal.backbones.spec import FeatureSpec
from balletal.video.clips import VideoSegment, plan_segments
from balletal.video.decode import Frames, read_frames
from balletal.video.probe import VideoInfo
from balletal.video.track import CropTrack

# Analysis frames of one unit: 30 s at 25 fps, 113 MB as pixels; twice that where every unit decodes a halo. Part of the
# store's contract: other numbers would cut videos elsewhere, and a store half filled would hold clips twice.
FRAMES_PER_UNIT = {"windowed": 750, "dense": 1500}


@dataclass(frozen=True)
class UnitFrames:
    """What the network needs of one unit of work.

    Attributes:
        pixels: (n, size, size, 3) uint8, RGB.
        lead: how many of them come before the unit's first clip.
        flow: (n - 1, size, size, 2) uint8 from each frame to the next, see :mod:`balletal.backbones.flow`; None where
            no stream needs it, or the extractor itself makes it.
        damage: what could not be decoded, see :class:`balletal.video.decode.Frames`.
    """

    pixels: NDArray[np.uint8]
    lead: int = 0
    flow: NDArray[np.uint8] | None = None
    damage: str | None = None

    @classmethod
    def of(cls, pixels: NDArray[np.uint8], spec: FeatureSpec, lead: int = 0, damage: str | None = None) -> "UnitFrames":
        """With the flow that the spec needs, unless the extractor makes it."""
        needed = "flow" in spec.streams and not spec.flow.startswith("script:")
        return cls(pixels, lead, optical_flow(pixels, spec.flow) if needed else None, damage)


def plan_units(video_id: str, info: VideoInfo, spec: FeatureSpec) -> Sequence[VideoSegment]:
    """The units of a video. They follow from the arguments alone: a resumed job plans what the killed one planned."""
    clips = max(1, (FRAMES_PER_UNIT[spec.mode] - spec.window) // spec.stride + 1)
    return plan_segments(video_id, info, spec, clips)


def frames_of(unit: VideoSegment, spec: FeatureSpec) -> tuple[int, int, int]:
    """Analysis frames ``[start, stop)`` that a unit reads, and where its first clip begins."""
    first = unit.first_clip * spec.stride
    stop = first + (unit.clips - 1) * spec.stride + spec.window
    start = first
    if spec.mode == "dense":
        # From a whole step on: the strides that are left must fall where they fall in the whole video.
        start, stop = max(0, first - HALO) // STEP * STEP, stop + HALO
    return start, stop + ("flow" in spec.streams), first


def read_unit(
    unit: VideoSegment,
    spec: FeatureSpec,
    track: CropTrack | None = None,
    read: Callable[..., Frames] = read_frames,
) -> UnitFrames:
    """Decode the analysis frames that a unit of work needs, flipped for a mirrored spec, with their optical flow.

    No frames, where less than one window is left of a unit that does not begin its video: only a video that is shorter
    than a window is filled up.

    Args:
        track: of the frames that :func:`frames_of` names, for a ``dancer`` crop.
        read: :func:`balletal.video.decode.read_frames`, or that in another process.

    Raises:
        VideoError: the video cannot be opened or nothing in it can be decoded.
    """
    start, stop, first = frames_of(unit, spec)
    frames = read(unit.uri, spec.fps, start, stop, crop=spec.crop, size=spec.size, track=track)
    lead, pixels = first - start, frames.pixels
    if spec.mirror:  # after the crop: the dancer's track is that of the plain video; before the flow, which turns too
        pixels = np.ascontiguousarray(pixels[:, :, ::-1])
    if first > 0 and len(pixels) - lead < spec.window:
        return UnitFrames(pixels[:0], damage=frames.damage)
    return UnitFrames.of(pixels, spec, lead, frames.damage)
