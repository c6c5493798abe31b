from dataclasses import replace

import cv2
import numpy as np
import pytest

from balletal.synthetic.body import JOINT, Style, random_body
from balletal.synthetic.camera import Camera
from balletal.synthetic.costume import Costume, Look, plain_look, random_look
from balletal.synthetic.figure import draw_person
from balletal.synthetic.musician import Musician
from balletal.synthetic.performance import perform
from balletal.synthetic.picture import Picture
from balletal.synthetic.presets import PRESETS, Place, Preset
from balletal.synthetic.shape import shape

SECONDS = 4.0
QUIET = replace(PRESETS["easy"], noise=(0.0, 0.0))


def _picture(preset: Preset, size: tuple[int, int] = (240, 136), seed: int = 0) -> Picture:
    random = np.random.default_rng(seed)
    return Picture(random, preset, perform(random, SECONDS, preset), size, SECONDS)


def _near(picture: Picture, preset: Preset, times: list[float], seed: int = 0) -> np.ndarray:
    """(H, W) where the dancer is at these times, with room for costume and shadow."""
    random = np.random.default_rng(seed)
    dancer = perform(random, SECONDS, preset).dancers[0]
    near = np.zeros(picture.size[::-1], np.uint8)
    for time, joints in zip(times, dancer.joints(np.array(times)), strict=True):
        fallen = joints * [1, 0, 1]
        for x, y in picture.project(np.concatenate([joints, fallen]), time):
            cv2.circle(near, (int(x), int(y)), round(0.2 * picture.size[1]), 1, -1)
    return near > 0


def test_a_picture_is_a_function_of_seed_and_time() -> None:
    preset = replace(PRESETS["wild"], cameras=("handheld",), company=1.0)
    first, second = _picture(preset), _picture(preset)
    one = first.draw(1.2, 0.02)
    assert one.shape == (136, 240, 3)
    assert one.dtype == np.uint8
    assert one.flags.c_contiguous
    second.draw(3.0, 0.01)  # another order
    assert np.array_equal(second.draw(1.2, 0.02), one)
    assert np.array_equal(first.draw(1.2, 0.02), one)
    assert not np.array_equal(first.draw(1.24, 0.02), one)
    assert not np.array_equal(_picture(preset, seed=1).draw(1.2, 0.02), one)


def test_only_where_the_dancer_is_something_changes() -> None:
    picture = _picture(QUIET)
    before, after = picture.draw(1.0, 0.0), picture.draw(2.0, 0.0)
    changed = np.abs(before.astype(int) - after).max(-1) > 12  # light drifts
    assert changed.any()
    assert not (changed & ~_near(picture, QUIET, [1.0, 2.0])).any()


def test_the_shutter_blurs_only_movement() -> None:
    picture = _picture(QUIET)
    times = np.arange(0.2, 3.8, 0.7)
    sharp, blurred = (np.stack([picture.draw(float(t), e) for t in times]).astype(int) for e in (0.0, 0.036))
    changed = np.abs(sharp - blurred).max(-1) > 0
    assert changed.any()
    for part, time in zip(changed, times, strict=True):
        assert not (part & ~_near(picture, QUIET, [float(time)])).any()


def test_a_toe_is_drawn_where_it_is_projected() -> None:
    body = random_body(np.random.default_rng(0), "woman")
    camera = Camera("fixed", (320, 240), np.array([0.4, 1.5, 9]), np.zeros(1), np.array([[0.03, -0.05, np.log(800)]]),
                    np.zeros((0, 5)))  # fmt: skip
    look = _look("leotard", "woman")
    black = np.zeros(3)
    look = replace(look, skin=black, hair=black, bodice=black, tights=black, shoe=np.array([255.0, 0, 0]), depth=0.0)
    motion = perform(np.random.default_rng(1), SECONDS, PRESETS["easy"]).dancers[0]
    joints = motion.joints(np.array([0.0]))
    view = camera.view(0.0)
    picture = np.zeros((240, 320, 3), np.uint8)
    draw_person(picture, view, shape(joints, joints, 0.1, body.stature, look), 0, look, np.zeros(2), 1.0)
    feet = [JOINT[name] for name in ("left_toe", "right_toe", "left_ankle", "right_ankle")]
    expected, _ = view.project(joints[0, feet])
    rows, columns = np.nonzero(picture[..., 0] > 128)
    assert len(rows)
    assert columns.min() + 0.5 == pytest.approx(expected[:, 0].min(), abs=4)
    assert columns.max() + 0.5 == pytest.approx(expected[:, 0].max(), abs=4)
    assert rows.max() + 0.5 == pytest.approx(expected[:, 1].max(), abs=4)


@pytest.mark.parametrize("place", ["plain", "stage", "studio"])
@pytest.mark.parametrize("size", [(160, 120), (90, 160), (1280, 720)])
def test_every_place_at_every_size(place: Place, size: tuple[int, int]) -> None:
    picture = _picture(replace(PRESETS["wild"], places=(place,), company=1.0), size, seed=3)
    frame = picture.draw(1.0, 0.02)
    assert frame.shape == (size[1], size[0], 3)
    assert frame.std() > 3


@pytest.mark.parametrize(
    ("costume", "style"),
    [
        ("tutu", "woman"),
        ("dress", "woman"),
        ("leotard", "woman"),
        ("leotard", "man"),
        ("tunic", "man"),
        ("suit", "man"),
    ],
)
def test_every_costume_is_seen_from_every_side_and_distance(costume: Costume, style: Style) -> None:
    body = random_body(np.random.default_rng(0), style)
    look = _look(costume, style)
    for turn in (0.0, 1.0, 2.5):
        joints = Musician(body, (0.0, 0.0), turn, 1.0, 0.0, bows=True).joints(np.array([0.0]))
        solid = shape(joints, joints - [0.1, 0, 0], 0.1, body.stature, look)
        for focal in (220, 1400):
            path = np.array([[0, -0.06, np.log(focal)]])
            view = Camera("fixed", (240, 240), np.array([0, 1.2, 9]), np.zeros(1), path, np.zeros((0, 5))).view(0.0)
            picture = np.full((240, 240, 3), 77, np.uint8)
            draw_person(picture, view, solid, 0, look, np.zeros(2), 1.0)
            drawn = (picture != 77).any(-1)
            tall = body.stature * focal / 9
            # A seated person is a silhouette of this order: neither a dot nor a balloon.
            assert 0.05 < drawn.sum() / tall**2 < 0.45
            assert drawn[int(view.project(joints[0, 0])[0][1]), int(view.project(joints[0, 0])[0][0])]


def test_full_contrast_shows_skin_and_cloth() -> None:
    for seed in range(20):
        random = np.random.default_rng(seed)
        scenery = random.uniform(30, 220, (3, 3)) * [0.7, 0.8, 1.0]
        look = random_look(random, "woman", scenery, 1.0, np.ones(3), np.array([0.5, -0.5]))
        for colour in (look.skin, look.skirt):
            assert np.abs(scenery - colour).sum(1).min() > 15


def _look(costume: Costume, style: Style) -> Look:
    random = np.random.default_rng(0)
    if costume == "suit":
        return plain_look(random, style, np.ones(3), np.array([0.5, -0.5]))
    look = random_look(random, style, np.full((1, 3), 77.0), 1.0, np.ones(3), np.array([0.5, -0.5]))
    return replace(look, costume=costume)
