"""JPEG pictures that come alone, as a camera's or a browser's do."""

from typing import Any

import av

from balletal.errors import VideoError

_START, _SCAN = b"\xff\xd8", 0xDA
# Markers that a frame's header has: all of C0 to CF but those of tables and of arithmetic coding's settings.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Width and height as the header says them; nothing is decoded.

    Raises:
        VideoError: no JPEG, or one that is cut in its header.
    """
    at = 2 if data[:2] == _START else len(data)
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in _FRAMES:
            height, width = (int.from_bytes(data[i : i + 2], "big") for i in (at + 5, at + 7))
            return width, height
        if marker == _SCAN or length < 2:
            break
        at += 2 + length
    raise VideoError("picture", "corrupt", expected="a JPEG", found=f"{len(data)} bytes without a JPEG's header")


def decode_jpeg(data: bytes, width: int, height: int) -> Any:
    """A JPEG of that size as an ``av.VideoFrame``; pictures of another size are refused before they are decoded.

    FFmpeg decodes it, as it does a video of such pictures, so that their analysis frames are the same.

    Raises:
        VideoError: no JPEG, a damaged one, or one of another size.
    """
    if (size := jpeg_size(data)) != (width, height):
        found = "{} x {}".format(*size)
        raise VideoError("picture", "corrupt", expected=f"a JPEG of {width} x {height}", found=found)
    # A decoder of its own for each: tables of the one before must not stand in for missing ones.
    decoder = av.CodecContext.create("mjpeg", "r")
    decoder.thread_count = 1
    decoder.options = {"err_detect": "explode"}  # rather than grey blocks where data are missing
    try:
        frames = decoder.decode(av.Packet(data))
    except av.error.FFmpegError as error:
        raise VideoError("picture", "corrupt", expected="a JPEG", found=str(error.strerror)) from None
    if len(frames) != 1 or (frames[0].width, frames[0].height) != size:
        raise VideoError("picture", "corrupt", expected="a JPEG", found=f"{len(frames)} pictures")
    return frames[0]
