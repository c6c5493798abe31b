from dataclasses import replace

import numpy as np
import pytest

from balletal.synthetic.camera import Camera, random_camera
from balletal.synthetic.performance import perform
from balletal.synthetic.presets import PRESETS, CameraKind, Preset

SECONDS = 6.0
TIMES = np.linspace(0, SECONDS, 61)


def _filmed(preset: Preset, size: tuple[int, int], seed: int) -> tuple[Camera, np.ndarray, float]:
    """A camera, the dancer's pixels (T, 22, 2) and the standing dancer's mean share of the picture's height."""
    random = np.random.default_rng(seed)
    dancer = perform(random, SECONDS, preset).dancers[0]
    track = dancer.joints(TIMES)
    stature = dancer.body.stature
    camera = random_camera(random, preset, size, SECONDS, track, stature)
    views = [camera.view(time) for time in TIMES]
    pixels = np.stack([view.project(joints)[0] for view, joints in zip(views, track, strict=True)])
    feet = track.mean(1) * [1, 0, 1]
    lines = [
        view.project(np.stack([foot, foot + np.array([0, stature, 0])]))[0]
        for view, foot in zip(views, feet, strict=True)
    ]
    return camera, pixels, float(np.mean([line[0, 1] - line[1, 1] for line in lines])) / size[1]


def test_a_known_point() -> None:
    still = Camera(
        "fixed", (320, 240), np.array([0.0, 1, 10]), np.zeros(1), np.array([[0, 0, np.log(100)]]), np.zeros((0, 5))
    )
    pixels, depth = still.view(3.0).project(np.array([[0.0, 1, 0], [1, 1, 0], [0, 2, 5]]))
    assert np.allclose(pixels, [[160, 120], [170, 120], [160, 100]])
    assert np.allclose(depth, [10, 10, 5])
    right = replace(still, path=np.array([[0.1, 0.05, np.log(100)]]))
    pixels, _ = right.view(0.0).project(np.array([0.0, 1, 0]))
    assert pixels[0] < 160  # what was ahead is left of where it looks now
    assert pixels[1] > 120  # and below
    assert right.view(0.0).focal == pytest.approx(100)


def test_a_ray_goes_through_its_pixel_and_views_of_one_place_are_a_homography_apart() -> None:
    camera, _, _ = _filmed(replace(PRESETS["wild"], cameras=("handheld",)), (320, 240), 0)
    first, second = camera.view(1.0), camera.view(4.0)
    pixels = np.array([[10.0, 20], [300, 200]])
    points = first.place + 7 * first.rays(pixels[:, 0], pixels[:, 1])
    assert np.allclose(first.project(points)[0], pixels)
    moved = np.column_stack([pixels, np.ones(2)]) @ first.homography(second).T
    assert np.allclose(moved[:, :2] / moved[:, 2:], second.project(points)[0])


@pytest.mark.parametrize("seed", range(10))
def test_easy_stays_within_the_central_square(seed: int) -> None:
    camera, pixels, share = _filmed(PRESETS["easy"], (480, 270), seed)
    assert not camera.moves
    assert np.abs(pixels[..., 0] - 240).max() < 135
    assert pixels[..., 1].min() > 0
    assert pixels[..., 1].max() < 270
    assert 0.3 < share < 0.65


@pytest.mark.parametrize("size", [(480, 270), (270, 480)])
@pytest.mark.parametrize("kind", ["pan", "zoom", "handheld"])
def test_a_moving_camera_keeps_the_dancer(kind: CameraKind, size: tuple[int, int]) -> None:
    camera, pixels, _ = _filmed(replace(PRESETS["stage"], cameras=(kind,)), size, 5)
    assert camera.moves
    inside = ((pixels > 0) & (pixels < size)).all(-1)
    assert inside[:, [11, 12]].all()  # hips
    assert inside.mean() > 0.97
    views = [camera.view(time) for time in TIMES]
    assert any(not np.allclose(view.matrix, views[0].matrix) for view in views)


def test_a_fixed_camera_shows_all_and_about_as_large_as_the_preset_says() -> None:
    preset = replace(PRESETS["stage"], cameras=("fixed",), size=(0.25, 0.26))
    _, pixels, share = _filmed(preset, (480, 270), 1)
    assert ((pixels > 0) & (pixels < [480, 270])).all()
    assert 0.17 < share < 0.27
