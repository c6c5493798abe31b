"""What people do to floors and mirrors: shadows and reflections."""

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from balletal.synthetic.camera import View
from balletal.synthetic.shape import BALL, Shape

Floats = NDArray[np.float64]
Image = NDArray[np.uint8]

_BONES = [
    (BALL[f"{side}_{a}"], BALL[f"{side}_{b}"])
    for side in ("left", "right")
    for a, b in (("hip", "knee"), ("knee", "ankle"), ("shoulder", "elbow"), ("elbow", "wrist"), ("shoulder", "hip"))
]


def reflected(solid: Shape, axis: int, at: float) -> Shape:
    """The mirror image in the plane where coordinate ``axis`` is ``at``.

    The finished shape is turned over, not the joints: from those, left and front would come out wrong.
    """

    def turned(points: Floats) -> Floats:
        points = points.copy()
        points[..., axis] = 2 * at - points[..., axis]
        return points

    return replace(solid, balls=turned(solid.balls), skirt=turned(solid.skirt), eyes=turned(solid.eyes))


def draw_shadow(picture: Image, view: View, solid: Shape, sun: Floats, shade: float) -> None:
    """Darken the floor under a person; softer and weaker, the higher she flies.

    Args:
        solid: the person at one moment.
        sun: (2,) how far in x and z a shadow falls for a metre of height.
        shade: share of the light that it takes away at most.
    """
    size = np.array([picture.shape[1], picture.shape[0]])
    height = float(max(0.0, solid.balls[0, :, 1].min()))
    flat = np.concatenate([_fallen(solid.balls[0], sun), _fallen(solid.skirt[0].reshape(-1, 3), sun)])
    count = len(solid.radii)
    pixels, depth = view.project(flat)
    scale = view.focal / float(depth[:count].mean())
    soft = (0.02 + 0.05 * height) * scale + 0.6
    edge = 4 * soft + 0.1 * scale
    low = np.clip(np.floor(pixels.min(0) - edge), 0, size).astype(int)
    high = np.clip(np.ceil(pixels.max(0) + edge), 0, size).astype(int)
    if (high - low < 2).any():
        return
    mask = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
    points = np.round((pixels - low - 0.5) * 16).astype(np.int32)
    # The floor is seen at a slant: what is round lies on it as a flat ellipse.
    slant = min(1.0, float(view.place[1] / np.linalg.norm(view.place - flat[:count].mean(0))) + 0.05)
    for point, radius in zip(points[:count].tolist(), (solid.radii * scale * 16).tolist(), strict=True):
        cv2.ellipse(mask, point, (max(8, round(radius)), max(4, round(radius * slant))), 0, 0, 360, 255, -1, shift=4)
    for a, b in _BONES:
        cv2.line(mask, points[a].tolist(), points[b].tolist(), 255, max(1, round(0.06 * slant * scale)), shift=4)
    if len(flat) > count:
        cv2.fillConvexPoly(mask, cv2.convexHull(points[count:]), 255, shift=4)
    mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), soft * 1.6, sigmaY=max(0.5, soft * 0.6)), np.uint8)
    keep = 255 - (mask * (shade / (1 + 1.5 * height))).astype(np.uint8)
    part = picture[low[1] : high[1], low[0] : high[0]]
    part[:] = cv2.multiply(part, cv2.merge([keep] * 3), scale=1 / 255)


def _fallen(points: Floats, sun: Floats) -> Floats:
    height = points[:, 1]
    return np.stack([points[:, 0] + sun[0] * height, np.zeros_like(height), points[:, 2] + sun[1] * height], axis=1)
