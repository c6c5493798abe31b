"""One decoded picture: how long it is shown, and its pixels at the size that is asked for."""

import math
from typing import Any, Literal, Protocol

import cv2
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from balletal.video.probe import clockwise

Crop = Literal["center", "full", "dancer"]

SAME_S = 1e-6
"""Two times nearer than this are the same time: clocks are exact fractions, their quotients as floats are not."""
# The published I3D practice: the short side to 256, then the central 224.
_SHORT_SIDE = 256 / 224


class Boxes(Protocol):
    """Where a ``dancer`` crop is: row ``k`` stands for the ``k``-th frame that is read.

    :class:`balletal.video.track.CropTrack` is one.
    """

    @property
    def mover(self) -> NDArray[np.bool_]:
        """(n,): False where nobody moves, so that the whole picture is taken."""
        ...

    def box(self, k: int, width: int, height: int) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the square, in pixels of a displayed picture of that size."""
        ...


class Shown:
    """A decoded picture, its presentation time and duration in seconds, its pixels' aspect; converted at most once."""

    def __init__(self, time: float, duration: float, frame: Any, aspect: float) -> None:
        self.time, self.duration, self.frame, self.aspect = time, duration, frame, aspect
        self._fitted: NDArray[np.uint8] | None = None
        self._whole: NDArray[np.uint8] | None = None

    def fitted(self, crop: Crop, size: int, track: Boxes | None, k: int) -> NDArray[np.uint8]:
        """(size, size, 3) uint8 RGB; ``k`` is the row of ``track``."""
        if track is not None and track.mover[k]:
            if self._whole is None:
                self._whole = turned(self.frame, self.frame.width, self.frame.height)
            return _cut(self._whole, self.shown_size(), track, k, size)
        if self._fitted is None:
            self._fitted = _fit(self.frame, self.aspect, "full" if crop == "dancer" else crop, size)
        return self._fitted

    def shown_size(self) -> tuple[int, int]:
        """Width and height as displayed, with square pixels."""
        width, height = round(self.frame.width * self.aspect), self.frame.height
        return (height, width) if clockwise(self.frame) in (90, 270) else (width, height)

    def size_within(self, longest: int) -> tuple[int, int]:
        """Width and height as displayed, even, and shrunk if a side is longer than that."""
        width, height = self.shown_size()
        scale = min(1.0, longest / max(width, height))
        return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)

    def whole(self, size: tuple[int, int]) -> NDArray[np.uint8]:
        """The picture as displayed, in RGB, at that width and height."""
        stored = size[::-1] if clockwise(self.frame) in (90, 270) else size
        return np.ascontiguousarray(turned(self.frame, *stored))


def shows(n: int, fps: float, shown: Shown, following: Shown) -> bool:
    """Whether analysis frame ``n``, or an earlier one, is this picture and not the ``following`` one: the nearer."""
    return n / fps <= (shown.time + following.time) / 2 + SAME_S


class Grey:
    """Makes pictures small and grey, all of the size that the first one gets, whatever becomes of theirs later.

    Args:
        pixels: about how many a small picture has; its sides are to each other as the displayed picture's are.
    """

    def __init__(self, pixels: int) -> None:
        self._pixels = pixels
        self._size: tuple[int, int] | None = None
        self._reformatter = VideoReformatter()  # keeps its tables from one picture to the next

    def of(self, shown: Shown) -> NDArray[np.uint8]:
        """(height, width), turned for display."""
        frame = shown.frame
        if self._size is None:
            ratio = frame.width * shown.aspect / frame.height
            width, height = math.sqrt(self._pixels * ratio), math.sqrt(self._pixels / ratio)
            self._size = max(1, round(width)), max(1, round(height))
        small = self._reformatter.reformat(frame, *self._size, "gray", interpolation="AREA", threads=1).to_ndarray()
        return np.ascontiguousarray(np.rot90(small, k=-(clockwise(frame) // 90)))


def turned(frame: Any, width: int, height: int) -> NDArray[np.uint8]:
    """A picture scaled to ``width`` x ``height`` as stored, in RGB, turned for display."""
    small = frame.reformat(width, height, "rgb24", interpolation="BILINEAR", threads=1).to_ndarray()
    return np.rot90(small, k=-(clockwise(frame) // 90))


def _cut(picture: NDArray[np.uint8], shown_size: tuple[int, int], track: Boxes, k: int, size: int) -> NDArray[np.uint8]:
    """The track's square of a picture, whose pixels need not be square, at ``size``."""
    (height, width), (shown_width, shown_height) = picture.shape[:2], shown_size
    left, top, right, bottom = track.box(k, shown_width, shown_height)
    x, y = width / shown_width, height / shown_height
    # At least one pixel, and inside the picture, whatever rounding does.
    x0, y0 = min(max(round(left * x), 0), width - 1), min(max(round(top * y), 0), height - 1)
    x1, y1 = min(max(round(right * x), x0 + 1), width), min(max(round(bottom * y), y0 + 1), height)
    shrinks = (x1 - x0) * (y1 - y0) > size * size
    scaled = cv2.resize(
        picture[y0:y1, x0:x1], (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    return np.asarray(scaled, dtype=np.uint8)


def _fit(frame: Any, aspect: float, crop: Crop, size: int) -> NDArray[np.uint8]:
    """(size, size, 3) uint8 RGB."""
    width, height = size, size
    if crop == "center":
        # Anamorphic video: pixels that are not square are made so, or the dancer is narrow.
        shown_width = frame.width * aspect
        scale = round(size * _SHORT_SIDE) / min(shown_width, frame.height)
        width, height = max(size, round(shown_width * scale)), max(size, round(frame.height * scale))
    small = turned(frame, width, height)
    top, left = (small.shape[0] - size) // 2, (small.shape[1] - size) // 2
    return small[top : top + size, left : left + size]
