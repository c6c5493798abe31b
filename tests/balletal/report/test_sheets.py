"""Which steps a contact sheet shows, and that the pictures are those of their times."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from balletal.annotations import Annotations, video_table
from balletal.labels import LabelSet
from balletal.report.sheets import COLUMNS, choose_examples, contact_sheet
from balletal.segments import segment_table

WIDTH, HEIGHT, LEFT, TOP, GAP = 240, 135, 250, 24, 4


@pytest.fixture
def annotations() -> Annotations:
    steps = segment_table(
        ["u", "u", "v", "v"], [0.0, 2.0, 1.0, 3.0], [1.0, 3.0, 2.0, 4.0], ["Courus", "TourEnLair", "Courus", "New"]
    )
    return Annotations(steps, video_table({"u": {}, "v": {}}), segment_table("v", [0.0], [1.0], "Backwards"))


def test_a_step_of_each_class_in_the_order_of_the_set(annotations: Annotations) -> None:
    fine = LabelSet.load("annchor-fine")
    examples = choose_examples(annotations, ["u", "v"], fine)
    assert list(examples["label"]) == ["Courus", "TourEnLair", "Backwards", "New"]
    assert list(choose_examples(annotations, ["u", "v"])["label"]) == ["Backwards", "Courus", "New", "TourEnLair"]
    assert list(choose_examples(annotations, ["u"], fine)["label"]) == ["Courus", "TourEnLair"]
    both = choose_examples(annotations, ["u", "v"], fine, rows_per_label=2)
    assert list(both["label"]) == ["Courus", "Courus", "TourEnLair", "Backwards", "New"]
    drawn = {choose_examples(annotations, ["u", "v"], fine, seed=seed)["video_id"][0] for seed in range(10)}
    assert drawn == {"u", "v"}


def write_greys(path: Path, size: tuple[int, int]) -> Path:
    """50 pictures at 25 a second, picture n of grey level 4 n."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.options = {"crf": "4"}
        for n in range(50):
            picture = np.full((size[1], size[0], 3), 4 * n, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    return path


def cells(png: bytes, row: int) -> list[np.ndarray]:
    sheet = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    top = TOP + row * (HEIGHT + GAP)
    lefts = [LEFT + column * (WIDTH + GAP) for column in range(len(COLUMNS))]
    return [sheet[top : top + HEIGHT, left : left + WIDTH] for left in lefts]


def test_the_pictures_are_those_of_the_times(tmp_path: Path) -> None:
    sources = {
        "wide": str(write_greys(tmp_path / "wide.mp4", (128, 72))),
        "tall": str(write_greys(tmp_path / "tall.mp4", (72, 128))),
    }
    examples = segment_table(["wide", "tall", "wide"], [0.0, 0.4, 1.6], [1.6, 0.8, 9.0], ["A", "A", "B"])
    png, problems = contact_sheet(examples, sources)
    assert problems == []
    middles = [[int(cell[HEIGHT // 2, WIDTH // 2].mean()) for cell in cells(png, row)] for row in range(3)]
    np.testing.assert_allclose(middles[0], [0, 40, 80, 120, 160], atol=4)
    # Nearest pictures: 0.5 and 0.7 s lie between two, and the earlier counts.
    np.testing.assert_allclose(middles[1], [40, 48, 60, 68, 80], atol=4)
    assert abs(middles[2][0] - 160) <= 4
    np.testing.assert_allclose(middles[2][1:], 196, atol=4)  # behind the end: its last picture
    corner = cells(png, 1)[0][5, 5]
    assert (corner == 228).all()  # an upright picture leaves paper at its sides
    assert abs(int(cells(png, 0)[4][2, 2].mean()) - 160) <= 4


def test_a_video_that_is_none_leaves_its_row_empty(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(b"no video")
    examples = segment_table("x", [0.0, 1.0], [1.0, 2.0], ["A", "a label too long for its place " * 3])
    png, problems = contact_sheet(examples, {"x": str(tmp_path / "x.mp4")})
    assert len(problems) == 1  # told once
    assert "x.mp4" in problems[0]
    assert all((cell == 228).all() for row in range(2) for cell in cells(png, row))
