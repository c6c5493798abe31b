"""Pictures whose motion is known exactly: a textured figure over a textured ground, each moving on its own."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

MARGIN = 64


def texture(size: int, seed: int) -> NDArray[np.uint8]:
    """(size, size, 3) noise with detail at every scale from 2 pixels to 32, as pictures of the world have."""
    random = np.random.default_rng(seed)
    total = np.zeros((size, size, 3), np.float32)
    for scale in (2, 4, 8, 16, 32):
        noise = random.standard_normal((size // scale, size // scale, 3)).astype(np.float32)
        total += scale**0.5 * cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    total -= total.min()
    return np.asarray(total * (255 / total.max()), np.uint8)


def shifted(size: int, shifts: list[tuple[int, int]], seed: int = 0) -> NDArray[np.uint8]:
    """(1 + len(shifts), size, size, 3): each picture is the one before it moved by (x, y) pixels, right and down."""
    large = texture(size + 2 * MARGIN, seed)
    x = y = MARGIN
    frames = [large[y : y + size, x : x + size]]
    for right, down in shifts:
        x, y = x - right, y - down  # the window moves against the picture in it
        frames.append(large[y : y + size, x : x + size])
    return np.stack(frames)


def scene(
    size: int, figure: tuple[float, float], ground: tuple[float, float], *, turn: float = 0.0, noise: float = 0.0
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_]]:
    """Two frames of an upright figure (a fifth of the width, half of the height) over a ground.

    Args:
        figure, ground: their motions, (x, y) pixels a frame.
        turn: radians a frame by which the figure turns about its middle besides.
        noise: standard deviation of the camera's noise, of 255.

    Returns:
        (2, size, size, 3) frames; the true flow of the first, (size, size, 2); where the figure is in it.
    """
    random = np.random.default_rng(5)
    front, back = texture(size + 2 * MARGIN, 1), texture(size + 2 * MARGIN, 2)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    middle = size / 2
    frames, masks = [], []
    for step in (0, 1):
        dx, dy = x - middle - step * figure[0], y - middle - step * figure[1]
        cos, sin = math.cos(step * turn), math.sin(step * turn)
        u, v = cos * dx + sin * dy, cos * dy - sin * dx  # where in the unmoved figure each pixel comes from
        inside = (u / (0.1 * size)) ** 2 + (v / (0.25 * size)) ** 2 < 1
        over = cv2.remap(front, u + middle + MARGIN, v + middle + MARGIN, cv2.INTER_CUBIC)
        under = cv2.remap(back, x - step * ground[0] + MARGIN, y - step * ground[1] + MARGIN, cv2.INTER_CUBIC)
        picture = np.where(inside[..., None], over, under) + noise * random.standard_normal((size, size, 3))
        frames.append(np.clip(np.round(picture), 0, 255).astype(np.uint8))
        masks.append(inside)
    dx, dy = x - middle, y - middle
    cos, sin = math.cos(turn), math.sin(turn)
    turned = np.stack([cos * dx - sin * dy - dx + figure[0], sin * dx + cos * dy - dy + figure[1]], axis=-1)
    flow = np.where(masks[0][..., None], turned, np.float32(ground)).astype(np.float32)
    return np.stack(frames), flow, masks[0]
