"""The camera's electronics: vignette, drifting gain and white balance, softness, noise."""

import cv2
import numpy as np
from numpy.typing import NDArray

from balletal.synthetic.presets import Preset

Image = NDArray[np.uint8]

_SPARE = 64  # pixels by which the noise is larger than the picture: it is laid at another place each time


class Sensor:
    """What happens to the light of a picture, a function of time."""

    def __init__(self, random: np.random.Generator, preset: Preset, size: tuple[int, int]) -> None:
        self.seed = int(random.integers(2**32))
        hard = preset.noise[1] / 10  # the worst noise stands for how bad cameras may be
        self.vignette = _vignette(size, random.uniform(0, 0.12 + 0.25 * hard))
        self.gain = random.uniform(1 - 0.3 * hard, 1 + 0.12 * hard) * random.uniform(1 - 0.1 * hard, 1 + 0.1 * hard, 3)
        self.gamma = float(random.uniform(1 - 0.15 * hard, 1 + 0.15 * hard))
        self.drift = random.uniform(0, 0.08 * hard) * random.uniform(0.4, 1, 3)
        self.period, self.phase = float(random.uniform(8, 40)), float(random.uniform(0, 2 * np.pi))
        self.soft = float(random.uniform(0, 0.9 * hard)) * size[1] / 360
        self.noise = _noise(random, size, float(random.uniform(*preset.noise)))

    def record(self, picture: Image, time: float) -> Image:
        """The recorded picture (H, W, 3) of what fell in."""
        if self.soft > 0.3:
            picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), self.soft))
        gain = self.gain * (1 + self.drift * np.sin(2 * np.pi * time / self.period + self.phase))
        curve = 255 * (np.arange(256)[:, None] / 255) ** self.gamma * gain
        table = np.clip(np.round(curve), 0, 255).astype(np.uint8)
        # Tables of their own for red, green and blue.
        picture = np.asarray(cv2.LUT(picture, table[None]))
        picture = np.asarray(cv2.multiply(picture, self.vignette, scale=1 / 255))
        if self.noise is None:
            return picture
        height, width = picture.shape[:2]
        random = np.random.default_rng([self.seed, abs(round(time * 1e6))])
        x, y = (int(v) for v in random.integers(0, _SPARE, 2))
        return np.asarray(cv2.add(picture, self.noise[y : y + height, x : x + width], dtype=cv2.CV_8U))


def _vignette(size: tuple[int, int], strength: float) -> Image:
    x, y = np.meshgrid(*(np.linspace(-1, 1, n) for n in size))
    dark = 255 * (1 - strength * ((x * x + y * y) / 2) ** 1.3)
    return np.repeat(np.round(dark).astype(np.uint8)[..., None], 3, axis=2)


def _noise(random: np.random.Generator, size: tuple[int, int], deviation: float) -> NDArray[np.int16] | None:
    """(H + spare, W + spare, 3) int16: mostly brightness, some of it colour; coarser than a pixel."""
    if deviation < 0.3:
        return None
    shape = (size[1] + _SPARE, size[0] + _SPARE)
    noise = (
        random.standard_normal((*shape, 1), np.float32) * 0.85 + random.standard_normal((*shape, 3), np.float32) * 0.5
    )
    noise = cv2.GaussianBlur(noise, (0, 0), float(random.uniform(0.3, 0.7)))
    return np.asarray(np.round(noise * (deviation / noise.std())), np.int16)
