"""Tiny videos whose pictures can be told apart."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

CLOCK = Fraction(1, 90000)


def _level(index: int) -> int:
    return 20 + 3 * (index % 70)


def _grey(index: int) -> np.ndarray:
    return np.full((48, 64, 3), _level(index), dtype=np.uint8)


@pytest.fixture
def shown() -> Callable[[np.ndarray], list[int]]:
    """shown(pixels) -> which pictures of a `write_video` these frames are, modulo 70, by their grey level."""
    return lambda pixels: [round((float(frame.mean()) - 20) / 3) for frame in pixels]


@pytest.fixture
def write_video(tmp_path: Path) -> Callable[..., Path]:
    """write_video(name, times, ...) -> path: a video with a picture at each time in seconds, plain grey by default."""

    def write(
        name: str,
        times: Sequence[float],
        *,
        codec: str = "libx264",
        picture: Callable[[int], np.ndarray] = _grey,
        rotation: int = 0,
        gop: int = 12,
        bframes: int = 2,
        rate: int | Fraction = 30,
        options: dict[str, str] | None = None,
        metadata: dict[str, str] | None = None,
    ) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w", options=options or {}) as container:
            container.metadata.update(metadata or {})
            stream = container.add_stream(codec, rate=rate)
            height, width, _ = picture(0).shape
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            # The older encoders count pictures and have no finer clock.
            base = CLOCK if codec == "libx264" else 1 / Fraction(rate)
            stream.codec_context.time_base = base
            stream.codec_context.gop_size = gop
            stream.codec_context.max_b_frames = bframes
            if codec == "libx264":
                stream.codec_context.options = {"crf": "8", "preset": "veryfast", "sc_threshold": "0"}
            else:
                stream.codec_context.options = {"flags": "+qscale", "global_quality": "118", "qmin": "1", "qmax": "1"}
            if rotation:
                stream.set_display_rotation(rotation)
            for index, time in enumerate(times):
                frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
                frame.time_base, frame.pts = base, round(time / base)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return write
