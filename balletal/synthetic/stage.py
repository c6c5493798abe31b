"""Scenery: a backdrop or wall, a floor, and what hangs and stands there, painted once for all that a camera sees."""

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from balletal.synthetic.camera import Camera, View
from balletal.synthetic.presets import Place, Preset

Floats = NDArray[np.float64]
Fields = NDArray[np.float32]
Image = NDArray[np.uint8]
Pixels = NDArray[np.int32]

_WIDEST = 2400  # pixels of the painting
_WORDS = ("GRAND PRIX", "CONCOURS", "BALLET", "DANCE", "FINALS", "YOUTH", "GALA", "COMPETITION", "BARRE", "ETOILE")


@dataclass(frozen=True)
class Stage:
    """Painted scenery.

    Attributes:
        place: what kind it is.
        painting: (H, W, 3) uint8 RGB.
        view: the camera's view that it is painted for; another view's picture is a homography away.
        wall: z of backdrop or wall, metres.
        mirror: (4, 3) corners of the mirror on the wall, metres, if there is one.
        tint: (3,) factors of the light on people.
        gloss: how much of people the floor reflects, 0 to 1.
        shade: how dark their shadows are, 0 to 1.
    """

    place: Place
    painting: Image
    view: View
    wall: float
    mirror: Floats | None
    tint: Floats
    gloss: float
    shade: float

    def background(self, view: View, size: tuple[int, int]) -> Image:
        """(H, W, 3) the empty scenery from a view."""
        # OpenCV's pixel centres are whole numbers, ours are at .5.
        shift = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
        back = np.linalg.inv(shift) @ view.homography(self.view) @ shift
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return np.asarray(cv2.warpPerspective(self.painting, back, size, flags=flags, borderMode=cv2.BORDER_REPLICATE))


def random_stage(random: np.random.Generator, preset: Preset, camera: Camera) -> Stage:
    place: Place = random.choice(np.array(preset.places)).item()
    view, size = _widest_view(camera)
    wall = -preset.reach[1] - float(random.uniform(1.2, 3.0))
    easel = _Easel(view, size, wall, random)
    mirror = None
    tint, gloss, shade = np.ones(3), 0.0, float(random.uniform(0.15, 0.4))
    if place == "plain":
        tint = _paint_plain(easel, random)
    elif place == "stage":
        tint = _paint_stage(easel, random, preset)
        gloss = float(random.uniform(0.06, 0.2)) if random.random() < 0.4 else 0.0
    else:
        mirror = _paint_studio(easel, random)
        tint = random.uniform(0.9, 1.05, 3)
        gloss = float(random.uniform(0.05, 0.15)) if random.random() < 0.5 else 0.0
    return Stage(place, easel.finish(), view, wall, mirror, tint, gloss, shade)


def _widest_view(camera: Camera) -> tuple[View, tuple[int, int]]:
    """A view from the camera's place that holds what it sees over time, and its picture's size.

    A quick shake may look a few pixels further: :meth:`Stage.background` repeats the edge there.
    """
    if not camera.moves:
        return camera.view(0.0), camera.size
    first = camera.view(float(camera.times[len(camera.times) // 2]))
    width, height = camera.size
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=float)
    seen = []
    for time in np.linspace(camera.times[0], camera.times[-1], max(2, round(4 * float(camera.times[-1])))):
        rays = camera.view(float(time)).rays(corners[:, 0], corners[:, 1])
        seen.append(first.project(first.place + rays)[0])
    low, high = np.min(seen, axis=(0, 1)) - 0.03 * width, np.max(seen, axis=(0, 1)) + 0.03 * width
    scale = min(1.0, _WIDEST / float((high - low).max()))
    move = np.array([[scale, 0, -low[0] * scale], [0, scale, -low[1] * scale], [0, 0, 1]])
    size = np.ceil((high - low) * scale).astype(int)
    return View(move @ first.matrix, first.place), (int(size[0]), int(size[1]))


class _Easel:
    """A painting under way, and where in the world its pixels are.

    Attributes:
        x, y: (H, W) metres on the wall.
        floor_x, floor_z: (H, W) metres on the floor; above the horizon those of the wall's foot.
        paint: (H, W, 3) RGB.
    """

    def __init__(self, view: View, size: tuple[int, int], wall: float, random: np.random.Generator) -> None:
        self.view, self.size, self.wall, self.random = view, size, wall, random
        columns, rows = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
        rays = view.rays(columns, rows).astype(np.float32)
        place = view.place.astype(np.float32)
        far = (wall - place[2]) / np.minimum(rays[..., 2], -1e-3)
        self.x, self.y = place[0] + far * rays[..., 0], place[1] + far * rays[..., 1]
        near = np.minimum(far, place[1] / np.maximum(-rays[..., 1], 1e-6))
        self.floor_x, self.floor_z = place[0] + near * rays[..., 0], place[2] + near * rays[..., 2]
        focal = view.focal
        # How much of a pixel is wall.
        self.above = np.clip(self.y * focal / far + 0.5, 0, 1)[..., None]
        self.scale = focal / float(place[2] - wall)
        self.paint: Fields = np.zeros((size[1], size[0], 3), np.float32)

    def fill(self, wall: Fields, floor: Fields) -> None:
        self.paint = floor + (wall - floor) * self.above

    def grain(self, x: Fields, y: Fields, cell: float) -> Fields:
        """(H, W) smooth irregularities of about ``cell`` metres, standard deviation about 0.5."""
        tile = self.random.normal(size=(128, 128)).astype(np.float32)
        # A factor that is no round number, so that the tile's repetitions fall on different places in x and y.
        columns, rows = np.asarray(x / cell, np.float32), np.asarray(y / cell * 1.07, np.float32)
        return np.asarray(cv2.remap(tile, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP))

    def polygon(self, points: Floats, colour: Floats, share: float = 1.0) -> None:
        """Fill a polygon of (N, 3) world points, all of them before the camera."""
        self._blend(points, colour, share, lambda mask, ends: cv2.fillPoly(mask, [ends], 255, cv2.LINE_AA, 4))

    def line(self, points: Floats, colour: Floats, width: float, share: float = 1.0) -> None:
        """A line ``width`` metres wide through (N, 3) world points; thinner than a pixel it fades."""
        pixels = width * self.scale
        thick = max(1, round(pixels))
        self._blend(
            points,
            colour,
            share * min(1.0, max(pixels, 0.25)),
            lambda mask, ends: cv2.polylines(mask, [ends], False, 255, thick, cv2.LINE_AA, 4),
        )

    def _blend(self, points: Floats, colour: Floats, share: float, draw: Callable[[Image, Pixels], object]) -> None:
        pixels, _ = self.view.project(points)
        low = np.clip(np.floor(pixels.min(0)) - 3, 0, self.size).astype(int)
        high = np.clip(np.ceil(pixels.max(0)) + 4, 0, self.size).astype(int)
        if (high <= low).any():
            return
        mask = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
        ends = np.round((pixels - low - 0.5) * 16).astype(np.int32)
        draw(mask, ends)
        part = self.paint[low[1] : high[1], low[0] : high[0]]
        part += (colour.astype(np.float32) - part) * (mask[..., None] * np.float32(share / 255))

    def stamp(self, mask: Image, left: float, bottom: float, width: float, colour: Floats, share: float) -> None:
        """Put a drawing (h, w) uint8, 255 where there is something, on the wall."""
        height = width * mask.shape[0] / mask.shape[1]
        corners = np.array([[0, height], [width, height], [width, 0], [0, 0]]) + np.array([left, bottom])
        pixels, _ = self.view.project(np.column_stack([corners, np.full(4, self.wall)]))
        source = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * [mask.shape[1], mask.shape[0]]
        warp = cv2.getPerspectiveTransform(source.astype(np.float32), pixels.astype(np.float32))
        warped = cv2.warpPerspective(mask, warp, self.size, flags=cv2.INTER_AREA)[..., None]
        self.paint += (colour.astype(np.float32) - self.paint) * (warped * np.float32(share / 255))

    def finish(self) -> Image:
        """Rounded at random, so that slow gradients show no bands."""
        dither = self.random.uniform(0, 1, self.paint.shape[:2]).astype(np.float32)[..., None]
        return np.asarray(np.clip(self.paint + dither, 0, 255), np.uint8)


def _paint_plain(easel: _Easel, random: np.random.Generator) -> Floats:
    """A wall and a floor of a colour each; a corner between them, or a round one."""
    cool = random.random() < 0.7
    hue = random.uniform(0.5, 0.7) if cool else random.random()
    wall = _rgb(hue, random.uniform(0.05, 0.6), random.uniform(0.35, 0.9))
    floor = wall * random.uniform(0.5, 0.95) if random.random() < 0.6 else _rgb(0.08, 0.35, random.uniform(0.3, 0.7))
    bright = random.uniform(-1, 1, 2)
    light = 1 + 0.06 * (bright[0] * easel.x / 4 + bright[1] * (easel.y - 1.5) / 2).clip(-2, 2)
    ground = (
        1 + 0.08 * bright[0] * (easel.floor_x / 4).clip(-2, 2) + 0.04 * easel.grain(easel.floor_x, easel.floor_z, 0.9)
    )
    ground *= 1 - 0.12 * np.exp(-(easel.floor_z - easel.wall) / 0.4)
    if random.random() < 0.3:
        easel.above = np.clip((easel.y + 0.3) / 0.6, 0, 1)[..., None]
    easel.fill(_shaded(wall, light), _shaded(floor, ground))
    return np.asarray(random.uniform(0.95, 1.03, 3))


def _paint_stage(easel: _Easel, random: np.random.Generator, preset: Preset) -> Floats:
    """A lit backdrop between black wings over a dance floor; returns the light's tint."""
    half = preset.reach[0] + float(random.uniform(1.6, 3.5))
    kind = random.random()
    hue = random.uniform(0.56, 0.68) if kind < 0.75 else random.uniform(0, 0.12) if kind < 0.85 else random.random()
    strong = random.uniform(0.1, 0.9)
    low, high = (
        _rgb(hue + shift, strong * s, random.uniform(*v))
        for shift, s, v in ((0.0, 0.75, (0.35, 0.65)), (random.uniform(-0.06, 0.04), 1.0, (0.35, 0.95)))
    )
    if random.random() < 0.1:
        low, high = low * 0.12, high * 0.12  # a black box
    top = random.uniform(5, 8)
    share = np.clip(easel.y / top, 0, 1)[..., None] ** random.uniform(0.7, 1.8)
    glow = np.exp(-(((easel.x - random.uniform(-2, 2)) / half) ** 2) - ((easel.y - random.uniform(0, top)) / 3) ** 2)
    light = 1 + random.uniform(0, 0.3) * glow - random.uniform(0.05, 0.35) * (easel.x / half).clip(-1.5, 1.5) ** 2
    light += 0.012 * easel.grain(easel.x, easel.y, 1.2)
    wall = (low + (high - low) * share).astype(np.float32) * light[..., None]
    foot = random.uniform(0.08, 0.3)
    edge = np.clip((easel.y - foot) * easel.scale + 0.5, 0, 1)[..., None]
    strip = low * random.uniform(1.05, 1.35) if random.random() < 0.5 else low * random.uniform(0.1, 0.5)
    wall = wall * edge + strip.astype(np.float32) * (1 - edge)
    gap = np.clip(1 - np.abs(easel.y - 0.02) / 0.035, 0, 1)[..., None] * random.uniform(0.3, 0.9)
    wall *= 1 - gap

    warm = np.array([1.0, random.uniform(0.9, 1.0), random.uniform(0.82, 1.05)])
    neutral = warm * random.uniform(40, 225)
    mixed = random.uniform(0.1, 0.6)
    ground = neutral * (1 - mixed) + low * mixed * random.uniform(0.6, 1.1)
    back = (easel.floor_z - easel.wall).clip(0, 30)
    light = 1 - random.uniform(0, 0.03) * back - random.uniform(0, 0.3) * (easel.floor_x / half).clip(-1.6, 1.6) ** 2
    light += 0.03 * easel.grain(easel.floor_x, easel.floor_z, 0.7) + 0.015 * easel.grain(
        easel.floor_x, easel.floor_z, 0.15
    )
    for _ in range(int(random.integers(0, 4))):
        at, wide = random.uniform([-half, easel.wall], [half, 4]), random.uniform(1, 2.5)
        pool = np.exp(-(((easel.floor_x - at[0]) / wide) ** 2) - ((easel.floor_z - at[1]) / wide / 0.8) ** 2)
        light += random.uniform(0.05, 0.25) * pool
    floor = _shaded(ground, light)
    floor += (np.exp(-back / random.uniform(0.4, 2.0)) * random.uniform(0, 0.35))[..., None] * (wall_low := low * 1.1)
    easel.fill(wall, np.asarray(floor, np.float32))

    line = ground * (0.75 if random.random() < 0.6 else 1.15)
    width = random.uniform(1.4, 2.0)
    for k in range(-8, 9):
        ends = [[k * width, 0, easel.wall], [k * width, 0, 5]]
        if random.random() < 0.5:
            easel.line(np.array(ends), line, 0.025, 0.6)
    for z in np.arange(easel.wall + 0.4, 5, width):
        if random.random() < 0.25:
            easel.line(np.array([[-12, 0, z], [12, 0, z]]), line, 0.02, 0.5)
    if random.random() < 0.5:
        mark = logo(random)
        wide = random.uniform(1.2, 3.2)
        left = random.uniform(-half, half - wide)
        easel.stamp(
            mark, left, random.uniform(2.2, 4.2), wide, np.minimum(high * 0.4 + 170, 255), random.uniform(0.4, 1)
        )
    _hang_curtains(easel, random, half)
    haze = wall_low / max(float(wall_low.max()), 1.0)
    return np.asarray(random.uniform(0.92, 1.04) * (0.86 + 0.14 * haze * random.uniform(0.6, 1.1)))


def _hang_curtains(easel: _Easel, random: np.random.Generator, half: float) -> None:
    """Wings, the farthest first, and a border above."""
    cloth = _rgb(random.random(), 0.5, 0.25) if random.random() < 0.15 else np.full(3, random.uniform(2, 22))
    for z in np.linspace(easel.wall + 0.6, easel.wall + 5.5, int(random.integers(2, 5))):
        for side in (-1, 1):
            inner, outer = side * half, side * (half + 9)
            corners = [[inner, 0, z], [outer, 0, z], [outer, 12, z], [inner, 12, z]]
            easel.polygon(np.array(corners), cloth)
            for k in range(1, 6):  # folds
                x = inner + side * 0.35 * k
                easel.line(np.array([[x, 0, z], [x, 9, z]]), cloth * 1.5 + 3, 0.12, 0.5)
    if random.random() < 0.6:
        height, z = random.uniform(5, 7.5), easel.wall + 1
        easel.polygon(np.array([[-14, height, z], [14, height, z], [14, 16, z], [-14, 16, z]]), cloth)


def _paint_studio(easel: _Easel, random: np.random.Generator) -> Floats | None:
    """A room with a barre, boards or a grey floor, and mirrors or windows; returns the mirror's corners."""
    wall = _rgb(random.uniform(0.05, 0.65), random.uniform(0.02, 0.25), random.uniform(0.55, 0.95))
    wood = random.random() < 0.6
    floor = _rgb(random.uniform(0.06, 0.1), random.uniform(0.3, 0.55), random.uniform(0.4, 0.75))
    if not wood:
        floor = np.full(3, random.uniform(60, 190)) * random.uniform(0.93, 1.05, 3)
    light = 1 - 0.04 * (easel.y - 2).clip(-3, 3) + 0.03 * easel.grain(easel.x, easel.y, 1.0)
    ground = 1 + 0.04 * easel.grain(easel.floor_x, easel.floor_z, 0.6)
    if wood:
        planks = random.uniform(0.88, 1.08, 400).astype(np.float32)
        across = easel.floor_x if random.random() < 0.5 else easel.floor_z
        ground *= planks[(np.floor(across / 0.12).astype(int)) % 400]
    for x in random.uniform(-4, 4, 3):  # lamps or windows shine in the floor
        ground += 0.16 * np.exp(-(((easel.floor_x - x) / 0.6) ** 2) - ((easel.floor_z + 1) / 2.5) ** 2)
    face = _shaded(wall, light)
    mirror = None
    if random.random() < 0.6:
        left, right = (float(v) for v in random.uniform(1, 7, 2) * [-1, 1])
        bottom, top = random.uniform(0.05, 0.4), random.uniform(2.0, 2.8)
        height, away = float(easel.view.place[1]), float(easel.view.place[2]) - easel.wall
        room = away + random.uniform(2, 5)
        horizon = height * room / (away + room)  # where the opposite wall begins, seen in the mirror
        inside = _shaded(wall * random.uniform(0.6, 0.9), 0.92 + 0.04 * easel.y.clip(0, 3))
        share = np.clip((horizon - easel.y) * easel.scale + 0.5, 0, 1)[..., None]
        inside = inside * (1 - share) + _shaded(floor * 0.8, np.ones_like(easel.y)) * share
        box = (easel.x > left) & (easel.x < right) & (easel.y > bottom) & (easel.y < top)
        face = np.where(box[..., None], inside * 0.94 + 6, face)
        mirror = np.array([[left, bottom], [right, bottom], [right, top], [left, top]])
        mirror = np.column_stack([mirror, np.full(4, easel.wall)])
    ceiling = _shaded(np.full(3, random.uniform(150, 240)), 1 + 0.03 * easel.grain(easel.x, easel.y, 2))
    over = np.clip((easel.y - random.uniform(3.2, 5.5)) * easel.scale + 0.5, 0, 1)[..., None]
    easel.fill(face + (ceiling - face) * over, _shaded(floor, ground))
    at = easel.wall + 0.01
    if mirror is not None:
        seam = wall * 0.55
        easel.line(np.vstack([mirror, mirror[:1]]), seam, 0.03)
        for x in np.arange(mirror[0, 0] + 1.4, mirror[1, 0] - 0.3, 1.4):
            easel.line(np.array([[x, mirror[0, 1], at], [x, mirror[2, 1], at]]), seam, 0.015, 0.7)
    else:
        for x in np.arange(-16, 16, random.uniform(2, 3)):
            if random.random() < 0.6:
                pane = np.array([[x, 1.0, at], [x + 1.2, 1.0, at], [x + 1.2, 2.9, at], [x, 2.9, at]])
                easel.polygon(pane, np.array([246.0, 250, 255]) * random.uniform(0.85, 1))
                easel.line(np.vstack([pane, pane[:1]]), wall * 0.8, 0.06)
                easel.line(np.array([[x + 0.6, 1, at], [x + 0.6, 2.9, at]]), wall * 0.8, 0.04)
    easel.line(np.array([[-25, 0.05, at], [25, 0.05, at]]), wall * 0.7, 0.1)
    for height in (1.05, 0.8)[: int(random.integers(0, 3))]:
        bar = np.array([[-16, height, at + 0.2], [16, height, at + 0.2]])
        easel.line(bar, floor * 0.55, 0.045)
        for x in np.arange(-16, 16.1, 1.8):
            easel.line(np.array([[x, 0, at + 0.2], [x, height, at + 0.2]]), np.full(3, 60.0), 0.03, 0.8)
    return mirror


def logo(random: np.random.Generator) -> Image:
    """(h, w) a word or three in capitals, and often a leaf above."""
    words = random.choice(np.array(_WORDS), int(random.integers(1, 4)), replace=False)
    font = int(random.choice([cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_SIMPLEX]))
    mask = np.zeros((140 + 70 * len(words), 420), np.uint8)
    for i, word in enumerate(words):
        text = (" " if random.random() < 0.3 else "").join(str(word))
        wide = cv2.getTextSize(text, font, 1.8, 4)[0][0]
        cv2.putText(mask, text, (4, 180 + 70 * i), font, 1.8 * min(1, 410 / wide), 255, 4, cv2.LINE_AA)
    if random.random() < 0.7:
        angle = float(random.uniform(30, 80))
        cv2.ellipse(mask, (70, 66), (60, 18), -angle, 0, 360, 255, -1, cv2.LINE_AA)
        cv2.ellipse(mask, (96, 84), (40, 10), -angle / 3, 0, 360, 255, -1, cv2.LINE_AA)
    return mask


def _rgb(hue: float, saturation: float, value: float) -> Floats:
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value))


def _shaded(colour: Floats, light: Fields) -> Fields:
    return np.asarray(colour * light[..., None], np.float32)
