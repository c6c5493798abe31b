"""What the camera records: scenery, people with their shadows and reflections, through shutter and sensor."""

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from balletal.synthetic.body import JOINT, Body, Style, random_body
from balletal.synthetic.camera import View, random_camera
from balletal.synthetic.costume import Look, plain_look, random_look
from balletal.synthetic.figure import draw_person
from balletal.synthetic.musician import Musician
from balletal.synthetic.performance import Performance
from balletal.synthetic.presets import Preset
from balletal.synthetic.sensor import Sensor
from balletal.synthetic.shadow import draw_shadow, reflected
from balletal.synthetic.shape import Shape, shape
from balletal.synthetic.stage import Stage, logo, random_stage

Floats = NDArray[np.float64]
Image = NDArray[np.uint8]
Box = tuple[slice, slice]

_GAP = 0.07  # seconds by which skirts lag behind
_STRIDE = 2.8  # pixels between two sub-exposures
_MOST = 9  # sub-exposures


class _Moving(Protocol):
    @property
    def body(self) -> Body: ...

    def joints(self, times: ArrayLike) -> Floats: ...


@dataclass(frozen=True)
class _Person:
    motion: _Moving
    look: Look


class Picture:
    """The moving picture of a performance.

    All that is random about the look is drawn at once; the rest is a function of time.
    """

    def __init__(
        self,
        random: np.random.Generator,
        preset: Preset,
        performance: Performance,
        size: tuple[int, int],
        seconds: float,
    ) -> None:
        self.size = size
        lead = performance.dancers[0]
        track = lead.joints(np.linspace(0, seconds, max(2, round(seconds * 10) + 1)))
        self.camera = random_camera(random, preset, size, seconds, track, lead.body.stature)
        self.stage = random_stage(random, preset, self.camera)
        self._scenery = None if self.camera.moves else self.stage.background(self.camera.view(0.0), size)
        side = float(random.choice([-1.0, 1.0]))
        light = np.array([side * random.uniform(0.4, 0.9), -random.uniform(0.2, 0.6)])
        # Shadows fall away from the light; lamps above the stage keep them short.
        self._sun = np.array([-side * random.uniform(0.1, 0.6), random.uniform(-0.35, 0.1)])
        behind = _behind(self.stage, track)
        contrast = float(random.uniform(*preset.contrast))
        self._people = [
            _Person(dancer, random_look(random, dancer.body.style, behind, contrast, self.stage.tint, light))
            for dancer in performance.dancers
        ]
        if random.random() < preset.company / 2:
            self._people += _musicians(random, preset, self.stage, self.camera.view(seconds / 2), size, light)
        self._sensor = Sensor(random, preset, size)
        # Broadcasters write their mark over what the sensor saw.
        self._mark = _watermark(random, size) if self.stage.place == "stage" and random.random() < 0.3 else None

    @property
    def facts(self) -> dict[str, str]:
        """What was drawn by lot, for people: kind of camera, scenery, the dancer's costume, how many others."""
        costume, others = self._people[0].look.costume, len(self._people) - 1
        return {"camera": self.camera.kind, "place": self.stage.place, "costume": costume, "others": str(others)}

    def draw(self, time: float, exposure: float) -> Image:
        """The picture (H, W, 3) uint8 RGB around ``time``, the shutter open for ``exposure`` seconds."""
        views = [self.camera.view(time + exposure * share) for share in (-0.5, 0.0, 0.5)]
        picture = self._background(views, exposure)
        moments = [_Moment(person, time, exposure) for person in self._people]
        if self.stage.mirror is None:
            moments = [moment for moment in moments if moment.near(views[1], self.size)]
        moments.sort(key=lambda moment: moment.joints[1, :, 2].mean())
        stills = [moment.solid(np.zeros(1)) for moment in moments]
        for moment, still in zip(moments, stills, strict=True):
            if self.stage.mirror is not None:
                self._draw_mirrored(picture, still, moment.person.look, views[1])
        for moment, still in zip(moments, stills, strict=True):
            if self.stage.gloss:
                self._draw_gloss(picture, still, moment.person.look, views[1])
            draw_shadow(picture, views[1], still, self._sun, self.stage.shade)
        for moment, still in zip(moments, stills, strict=True):
            self._draw_person(picture, moment, still, views)
        picture = self._sensor.record(picture, time)
        if self._mark is not None:
            box, share = self._mark
            picture[box] = np.round(picture[box] + (245 - picture[box].astype(np.float32)) * share).astype(np.uint8)
        return picture

    def project(self, points: ArrayLike, time: float) -> Floats:
        """Pixels (..., 2), x right and y down, pixel centres at .5, of points (..., 3) in metres."""
        return self.camera.view(time).project(np.asarray(points, float))[0]

    def _background(self, views: list[View], exposure: float) -> Image:
        if self._scenery is not None:
            return self._scenery.copy()
        middle = np.array(self.size) / 2
        ahead = views[0].place + views[0].rays(middle[:1], middle[1:])
        moved = float(np.abs(views[2].project(ahead)[0] - middle).max())
        if exposure == 0 or moved < 1.5:
            return self.stage.background(views[1], self.size)
        first, last = (self.stage.background(view, self.size) for view in (views[0], views[2]))
        return np.asarray(cv2.addWeighted(first, 0.5, last, 0.5, 0))

    def _draw_person(self, picture: Image, moment: "_Moment", still: Shape, views: list[View]) -> None:
        pixels = [view.project(joints)[0] for view, joints in zip(views, moment.joints, strict=True)]
        count = int(np.clip(np.ceil(np.abs(pixels[2] - pixels[0]).max() / _STRIDE), 1, _MOST))
        if count == 1:
            _expose(picture, still, [views[1]], moment.person.look)
            return
        shares = (np.arange(count) + 0.5) / count - 0.5
        between = [views[1]] * count
        if self.camera.moves:
            between = [self.camera.view(moment.time + moment.exposure * float(share)) for share in shares]
        _expose(picture, moment.solid(shares), between, moment.person.look)

    def _draw_mirrored(self, picture: Image, still: Shape, look: Look, view: View) -> None:
        assert self.stage.mirror is not None
        image = reflected(still, 2, self.stage.wall)
        box = _box(image, [view], self.size)
        if box is None:
            return
        before = picture[box].copy()
        _expose(picture, image, [view], look)
        corners = (view.project(self.stage.mirror)[0] - [box[1].start, box[0].start] - 0.5) * 16
        glass = np.zeros(before.shape[:2], np.uint8)
        cv2.fillConvexPoly(glass, np.round(corners).astype(np.int32), 1, cv2.LINE_8, 4)
        # Glass takes some of the light.
        dimmed = cv2.addWeighted(picture[box], 0.85, before, 0.15, 0)
        picture[box] = np.where(glass[..., None] > 0, dimmed, before)

    def _draw_gloss(self, picture: Image, still: Shape, look: Look, view: View) -> None:
        """The floor's weak reflection."""
        image = reflected(still, 1, 0.0)
        box = _box(image, [view], self.size)
        if box is None:
            return
        before = picture[box].copy()
        _expose(picture, image, [view], look)
        feet = image.balls[0, :, 1].argmax()  # what is lowest in the room is highest in its reflection
        pixels, depth = view.project(image.balls[0, feet])
        metre = view.focal / float(depth)
        blurred = cv2.blur(picture[box], (1 + 2 * round(0.02 * metre), 1 + 2 * round(0.06 * metre)))
        # The farther from the floor, the duller.
        below = (np.arange(box[0].start, box[0].stop) - pixels[1]).clip(0) / metre
        share = (self.stage.gloss * np.exp(-1.2 * below)).astype(np.float32)[:, None, None]
        picture[box] = np.round(before + (blurred - before.astype(np.float32)) * share).astype(np.uint8)


class _Moment:
    """A person while the shutter is open.

    Attributes:
        joints: (3, 22, 3) metres, as it opens, half way and as it closes.
    """

    def __init__(self, person: _Person, time: float, exposure: float) -> None:
        self.person, self.time, self.exposure = person, time, exposure
        half = exposure / 2
        joints = person.motion.joints(np.array([time - half, time, time + half, time - _GAP]))
        self.joints, self.before = joints[:3], joints[3:]

    def near(self, view: View, size: tuple[int, int]) -> bool:
        """Whether the person or the shadow may be in the picture."""
        pixels, depth = view.project(self.joints[1])
        edge = 2 * view.focal / float(depth.min())
        return bool((pixels.max(0) > -edge).all() and (pixels.min(0) < np.array(size) + edge).all())

    def solid(self, shares: Floats) -> Shape:
        """The body at shares (T,) of the exposure from its middle, -0.5 to 0.5."""
        first, middle, last = self.joints
        s = shares[:, None, None]
        # A parabola: as good as exact for so short a time.
        between = middle + (last - first) * s + 2 * (first - 2 * middle + last) * s * s
        return shape(between, self.before, _GAP, self.person.motion.body.stature, self.person.look)


def _expose(picture: Image, solid: Shape, views: list[View], look: Look) -> None:
    """Draw a person, the mean of as many sub-exposures as there are views; small ones at several times the size."""
    size = (picture.shape[1], picture.shape[0])
    box = _box(solid, views, size)
    if box is None:
        return
    part = picture[box]
    tall = 1.7 * views[0].focal / float(views[0].project(solid.balls[0])[1].mean())
    zoom = 4 if tall < 45 else 3 if tall < 75 else 2 if tall < 600 else 1
    corner = np.array([box[1].start, box[0].start], float)
    ground = np.repeat(np.repeat(part, zoom, axis=0), zoom, axis=1)
    light = np.zeros(part.shape, np.float32)
    for moment, view in enumerate(views):
        canvas = ground.copy() if moment + 1 < len(views) else ground
        draw_person(canvas, view, solid, moment, look, corner, float(zoom))
        if zoom > 1:
            canvas = np.asarray(cv2.resize(canvas, part.shape[1::-1], interpolation=cv2.INTER_AREA))
        if len(views) == 1:
            part[:] = canvas
            return
        cv2.accumulate(canvas, light)
    part[:] = np.round(light / len(views)).astype(np.uint8)


def _box(solid: Shape, views: list[View], size: tuple[int, int]) -> Box | None:
    """The rows and columns that a person may cover, or None outside the picture."""
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    for moment, view in enumerate(views):
        balls, depth = view.project(solid.balls[moment])
        edge = 1.1 * float(solid.radii.max()) * view.focal / float(depth.min()) + 2
        points = np.concatenate([balls, view.project(solid.skirt[moment].reshape(-1, 3))[0]])
        low, high = np.minimum(low, points.min(0) - edge), np.maximum(high, points.max(0) + edge)
    left, top = np.clip(np.floor(low), 0, size).astype(int)
    right, bottom = np.clip(np.ceil(high), 0, size).astype(int)
    return None if right - left < 1 or bottom - top < 1 else (slice(top, bottom), slice(left, right))


def _watermark(random: np.random.Generator, size: tuple[int, int]) -> tuple[Box, NDArray[np.float32]]:
    """A small logo in a corner: where, and its opacity (h, w, 1)."""
    mark = logo(random)
    width = max(16, round(max(size) * float(random.uniform(0.07, 0.13))))
    height = round(width * mark.shape[0] / mark.shape[1])
    small = cv2.resize(mark, (width, height), interpolation=cv2.INTER_AREA)
    edge = round(0.03 * max(size))
    left = edge if random.random() < 0.5 else size[0] - edge - width
    top = edge if random.random() < 0.7 else size[1] - edge - height
    share = np.asarray(small[..., None] * (float(random.uniform(0.3, 0.9)) / 255), np.float32)
    return (slice(top, top + height), slice(left, left + width)), share


def _behind(stage: Stage, track: Floats) -> Floats:
    """(3, 3) RGB: the scenery's mean colours behind the dancer's shoulders, hips and ankles."""
    colours = []
    for joint in ("shoulder", "hip", "ankle"):
        points = track[:, [JOINT[f"left_{joint}"], JOINT[f"right_{joint}"]]].reshape(-1, 3)
        columns, rows = np.floor(stage.view.project(points)[0]).astype(int).T
        height, width = stage.painting.shape[:2]
        colours.append(stage.painting[rows.clip(0, height - 1), columns.clip(0, width - 1)].mean(0))
    return np.array(colours)


def _musicians(
    random: np.random.Generator, preset: Preset, stage: Stage, view: View, size: tuple[int, int], light: Floats
) -> list[_Person]:
    """One to three, at one side of what the camera sees, behind the dance."""
    side, people = float(random.choice([-1.0, 1.0])), []
    z = stage.wall + float(random.uniform(0.6, 0.9))
    half = size[0] / 2 / view.focal * float(view.place[2] - z)
    for i in range(int(random.integers(1, 4))):
        style: Style = "woman" if random.random() < 0.5 else "man"
        x = side * (half * float(random.uniform(0.55, 0.75)) + 0.9 * i)
        motion = Musician(
            body=random_body(random, style),
            place=(x, z + float(random.uniform(-0.2, 0.2))),
            yaw=-side * float(random.uniform(0.2, 1.2)),
            tempo=float(random.uniform(0.3, 1.5)),
            phase=float(random.uniform(0, 2 * np.pi)),
            bows=bool(random.random() < 0.5),
        )
        people.append(_Person(motion, plain_look(random, style, stage.tint, light)))
    return people
