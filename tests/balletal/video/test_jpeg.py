import cv2
import numpy as np
import pytest

from balletal.errors import VideoError
from balletal.video.jpeg import decode_jpeg, jpeg_size


def picture(width: int = 64, height: int = 48) -> np.ndarray:
    down, across = np.mgrid[:height, :width]
    return np.stack([4 * across, 200 - 4 * down, 3 * down], axis=2).clip(0, 255).astype(np.uint8)


def jpeg(image: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(".jpg", image, options)[1].tobytes()


@pytest.mark.parametrize("options", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_QUALITY, 100)])
def test_a_jpeg_is_the_picture(options: tuple[int, ...]) -> None:
    data = jpeg(picture(), *options)
    assert jpeg_size(data) == (64, 48)
    found = decode_jpeg(data, 64, 48).to_ndarray(format="bgr24").astype(int)
    assert np.abs(found - picture()).mean() < 6


def test_a_grey_jpeg() -> None:
    grey = cv2.cvtColor(picture(), cv2.COLOR_BGR2GRAY)
    found = decode_jpeg(jpeg(grey), 64, 48).to_ndarray(format="rgb24").astype(int)
    assert np.abs(found - grey[..., None]).mean() < 4


GOOD = jpeg(picture())
LARGE = GOOD.replace((48).to_bytes(2, "big") + (64).to_bytes(2, "big"), b"\xff\xff\xff\xff", 1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8",
        b"no JPEG, but long enough to be one",
        GOOD[:20],
        GOOD[: len(GOOD) // 2],
        b"\xff\xd8\xff\xe0\x00\x00" + GOOD,  # a segment of no length must not be read for ever
        jpeg(picture(48, 64)),
        LARGE,
    ],
)
def test_what_is_no_such_jpeg_is_refused(data: bytes) -> None:
    with pytest.raises(VideoError):
        decode_jpeg(data, 64, 48)


def test_a_large_picture_is_refused_by_its_header() -> None:
    assert jpeg_size(LARGE) == (65535, 65535)
    with pytest.raises(VideoError, match="65535 x 65535"):
        decode_jpeg(LARGE, 64, 48)
